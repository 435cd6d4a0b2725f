"""Eclipse Paho for Python (its version 2 API) against a broker, over MQTT 3.1.1 and 5, over TCP and WebSocket."""

import contextlib
import hashlib
import os
import queue
import socket
import ssl
import sys
import time
import traceback
import urllib.parse

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

HOST = os.environ["MQTT_HOST"]
PORT = int(os.environ["MQTT_PORT"])
TLS_PORT = int(os.environ["MQTT_TLS_PORT"])
WEB_TLS_PORT = int(os.environ["WEB_TLS_PORT"])
TLS_DIR = os.environ["TLS_DIR"]
CREDENTIALS = (os.environ["MQTT_USER"], os.environ["MQTT_PASSWORD"])
WAIT = 10
END = b"end"
WEB = urllib.parse.urlsplit(os.environ["WEB_MQTT_URL"])
# Whether the current scenarios go over WebSocket.
over_web = False


class Client:
    """One connection; what it receives waits in a queue."""

    def __init__(self, version, name, clean=True, credentials=CREDENTIALS, will=None, refused=False, tls=None):
        self.v5 = version == 5
        protocol = mqtt.MQTTv5 if self.v5 else mqtt.MQTTv311
        extra = {} if self.v5 else {"clean_session": clean}
        self.mqtt = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol, reconnect_on_failure=False,
                                transport="websockets" if over_web else "tcp", **extra)
        if over_web:
            self.mqtt.ws_set_options(path=WEB.path)
        self.messages, self.connects, self.disconnects, self.subacks = (queue.Queue() for _ in range(4))
        self.mqtt.on_message = lambda _c, _u, message: self.messages.put(message)
        self.mqtt.on_connect = lambda _c, _u, flags, reason, _p: self.connects.put((flags, reason))
        self.mqtt.on_disconnect = lambda _c, _u, _f, reason, _p: self.disconnects.put(reason)
        self.mqtt.on_subscribe = lambda _c, _u, _mid, reasons, _p: self.subacks.put(reasons)
        if credentials:
            self.mqtt.username_pw_set(*credentials)
        if tls:
            self.mqtt.tls_set(**tls)
        if will:
            self.mqtt.will_set(*will)
        connect = {}
        if self.v5:
            connect["clean_start"] = clean
            connect["properties"] = Properties(PacketTypes.CONNECT)
            connect["properties"].SessionExpiryInterval = 0 if clean else 3600
        tls_port = WEB_TLS_PORT if over_web else TLS_PORT
        self.mqtt.connect(HOST, tls_port if tls else WEB.port if over_web else PORT, keepalive=30, **connect)
        self.mqtt.loop_start()
        flags, self.reason = self.connects.get(timeout=WAIT)
        assert self.reason.is_failure == refused, f"CONNACK {self.reason}"
        self.session_present = flags.session_present

    def subscribe(self, topic_filter, qos, identifier=None):
        if self.v5:
            properties = Properties(PacketTypes.SUBSCRIBE)
            if identifier:
                properties.SubscriptionIdentifier = identifier
            self.mqtt.subscribe(topic_filter, options=SubscribeOptions(qos=qos), properties=properties)
        else:
            self.mqtt.subscribe(topic_filter, qos)
        granted = self.subacks.get(timeout=WAIT)
        assert [g.value for g in granted] == [qos], f"SUBACK {granted}"
        return self

    def publish(self, topic, payload, qos, retain=False, properties=None):
        info = self.mqtt.publish(topic, payload, qos, retain, properties)
        info.wait_for_publish(WAIT)
        assert info.is_published(), f"no answer to {topic} at QoS {qos}"

    def receive(self, count):
        return [self.messages.get(timeout=WAIT) for _ in range(count)]

    def receive_to_end(self):
        """All up to the marker that the test publishes last."""
        got = []
        while not got or got[-1].payload != END:
            got.append(self.messages.get(timeout=WAIT))
        return got[:-1]

    def cut(self):
        """Closes the socket with no DISCONNECT, as a crash does."""
        # Over WebSocket it is a wrapper of Paho's own, without a way to cut it.
        wire = self.mqtt.socket()
        getattr(wire, "_socket", wire).shutdown(socket.SHUT_RDWR)
        self.mqtt.loop_stop()

    def close(self):
        self.mqtt.disconnect()
        self.disconnects.get(timeout=WAIT)
        self.mqtt.loop_stop()


def equal(got, want, what):
    assert got == want, f"{what}: got {str(got)[:300]}, want {str(want)[:300]}"


def control(command):
    host, port = os.environ["MQTT_CONTROL"].split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(command.encode() + b"\n")
        answer = connection.makefile().readline().strip()
    assert answer == "ok", f"{command}: {answer}"


def both_ways(version, base, qos):
    subscriber = Client(version, f"{base}-s").subscribe(f"{base}/#", qos)
    publisher = Client(version, f"{base}-p")
    sent = [f"{i} ".encode() + bytes(range(256)) for i in range(20)]
    for i, payload in enumerate(sent):
        publisher.publish(f"{base}/{i}", payload, qos)
    publisher.publish(f"{base}/end", END, qos)
    got = subscriber.receive_to_end()
    equal([m.payload for m in got], sent, "payloads")
    equal([m.topic for m in got], [f"{base}/{i}" for i in range(20)], "topics")
    equal({(m.qos, m.retain) for m in got}, {(qos, False)}, "QoS and retain")
    subscriber.close()
    publisher.close()


def retained(version, base):
    client = Client(version, f"{base}-p")
    client.publish(f"{base}/a", b"first", 1, retain=True)
    client.publish(f"{base}/a", b"second", 1, retain=True)
    client.publish(f"{base}/b", b"other", 2, retain=True)
    early = Client(version, f"{base}-1").subscribe(f"{base}/+", 1)
    equal(sorted((m.topic, m.payload, m.retain) for m in early.receive(2)), [(f"{base}/a", b"second", True), (f"{base}/b", b"other", True)], "wildcard")
    client.publish(f"{base}/b", b"live", 1, retain=True)
    equal([(m.payload, m.retain) for m in early.receive(1)], [(b"live", False)], "live")
    client.publish(f"{base}/a", b"", 1, retain=True)
    late = Client(version, f"{base}-2").subscribe(f"{base}/#", 1)
    client.publish(f"{base}/end", END, 1)
    equal([(m.topic, m.payload, m.retain) for m in late.receive_to_end()], [(f"{base}/b", b"live", True)], "after the clear")
    client.publish(f"{base}/b", b"", 1, retain=True)
    for c in (client, early, late):
        c.close()


def will(version, base):
    watcher = Client(version, f"{base}-w").subscribe(f"{base}/#", 1)
    polite = Client(version, f"{base}-polite", will=(f"{base}/polite", b"unwanted", 1, False))
    polite.close()
    Client(version, f"{base}-cut", will=(f"{base}/will", b"gone", 1, False)).cut()
    equal([(m.topic, m.payload, m.qos, m.retain) for m in watcher.receive(1)], [(f"{base}/will", b"gone", 1, False)], "will")
    watcher.close()


def takeover(version, base):
    old = Client(version, f"{base}-same").subscribe(f"{base}/old", 1)
    new = Client(version, f"{base}-same").subscribe(f"{base}/new", 1)
    reason = old.disconnects.get(timeout=WAIT)
    equal(new.session_present, False, "session present")
    other = Client(version, f"{base}-other")
    other.publish(f"{base}/old", b"for nobody", 1)
    other.publish(f"{base}/new", b"still here", 1)
    equal([m.payload for m in new.receive(1)], [b"still here"], "the new connection")
    new.close()
    other.close()
    old.mqtt.loop_stop()
    return reason


def takeover_142(version, base):
    equal(takeover(version, base).value, 142, "reason of the DISCONNECT")


def offline(version, base, command):
    session = Client(version, f"{base}-s", clean=False)
    equal(session.session_present, False, "session present at first")
    session.subscribe(f"{base}/#", 2).close()
    publisher = Client(version, f"{base}-p")
    for i in range(50):
        publisher.publish(f"{base}/one", f"{i}".encode(), 1)
        publisher.publish(f"{base}/two", f"{i}".encode(), 2)
    control(command)
    publisher.disconnects.get(timeout=WAIT)
    publisher.mqtt.loop_stop()
    publisher = Client(version, f"{base}-p")
    publisher.publish(f"{base}/one", b"50", 1)
    publisher.publish(f"{base}/two", b"50", 2)
    session = Client(version, f"{base}-s", clean=False)
    equal(session.session_present, True, "session present")
    publisher.publish(f"{base}/end", END, 2)
    got = session.receive_to_end()
    for topic, qos in (("one", 1), ("two", 2)):
        mine = [m for m in got if m.topic == f"{base}/{topic}"]
        equal([m.payload for m in mine], [f"{i}".encode() for i in range(51)], topic)
        equal({m.qos for m in mine}, {qos}, f"QoS of {topic}")
    session.close()
    Client(version, f"{base}-s").close()
    publisher.close()


def shared(version, base):
    members = [Client(version, f"{base}-{n}").subscribe(f"$share/group/{base}/+", 1).subscribe(f"{base}-end", 1) for n in "ab"]
    publisher = Client(version, f"{base}-p")
    for i in range(40):
        publisher.publish(f"{base}/x", f"{i}".encode(), 1)
    shares = [[], []]
    deadline = time.monotonic() + WAIT
    while len(shares[0]) + len(shares[1]) < 40 and time.monotonic() < deadline:
        for share, member in zip(shares, members):
            with contextlib.suppress(queue.Empty):
                share.append(int(member.messages.get(timeout=0.01).payload))
    publisher.publish(f"{base}-end", END, 1)
    for share, member in zip(shares, members):
        share.extend(int(m.payload) for m in member.receive_to_end())
    equal(sorted(shares[0] + shares[1]), list(range(40)), "both shares together")
    assert all(shares), f"one member got all: {shares}"
    for c in members + [publisher]:
        c.close()


def large(version, base):
    client = Client(version, f"{base}-c").subscribe(f"{base}/#", 2)
    payload = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(32768))
    for qos in (0, 1, 2):
        client.publish(f"{base}/{qos}", payload, qos)
        (message,) = client.receive(1)
        assert message.payload == payload and message.qos == qos, f"1 MiB at QoS {qos} came back as {len(message.payload)} bytes"
    client.close()


def properties(version, base):
    client = Client(version, f"{base}-c").subscribe(f"{base}/+", 1, identifier=7)
    sent = Properties(PacketTypes.PUBLISH)
    sent.PayloadFormatIndicator = 1
    sent.MessageExpiryInterval = 300
    sent.ContentType = "text/plain; charset=utf-8"
    sent.ResponseTopic = f"{base}/answers"
    sent.CorrelationData = bytes(range(256))
    sent.UserProperty = pairs = [("b", "1"), ("a", "2"), ("b", "1"), ("", "empty name"), ("ключ", "значение")]
    client.publish(f"{base}/x", "grüße".encode(), 1, properties=sent)
    (message,) = client.receive(1)
    got = message.properties
    equal(got.PayloadFormatIndicator, 1, "payload format")
    assert 290 <= got.MessageExpiryInterval <= 300, f"expiry {got.MessageExpiryInterval}"
    equal(got.ContentType, sent.ContentType, "content type")
    equal(got.ResponseTopic, sent.ResponseTopic, "response topic")
    equal(got.CorrelationData, sent.CorrelationData, "correlation data")
    equal(got.UserProperty, pairs, "user properties")
    equal(got.SubscriptionIdentifier, [7], "subscription identifier")
    client.close()


def wrong_password(version, base):
    client = Client(version, f"{base}-c", credentials=("guest", "wrong"), refused=True)
    client.mqtt.loop_stop()
    # Paho shows a 3.1.1 return code as the reason code of version 5 that means the same.
    same = {"4": 134, "5": 135}
    want = int(os.environ["MQTT_REFUSED_V5"]) if version == 5 else same[os.environ["MQTT_REFUSED_V3"]]
    equal(client.reason.value, want, "CONNACK")


def anonymous(version, base):
    client = Client(version, f"{base}-c", credentials=None).subscribe(f"{base}/x", 0)
    client.publish(f"{base}/x", b"hello", 0)
    equal([m.payload for m in client.receive(1)], [b"hello"], "payload")
    client.close()


def tls():
    """With the server verified, over WebSocket and not: by password, by the client's certificate, and not at all by who trusts somebody else."""
    trust = {"ca_certs": f"{TLS_DIR}/ca.pem"}
    own = {**trust, "certfile": f"{TLS_DIR}/client.pem", "keyfile": f"{TLS_DIR}/client.key"}
    global over_web
    for over_web in (True, False):
        for version, how, credentials, settings in ((4, "password", CREDENTIALS, trust), (5, "certificate", None, own)):
            topic = f"py-tls/{version}/{how}"
            client = Client(version, f"py-tls-{version}-{how}", credentials=credentials, tls=settings).subscribe(topic, 1)
            body = bytes(range(256)) * 4096
            client.publish(topic, body, 1)
            equal([m.payload for m in client.receive(1)], [body], f"payload by {how}")
            client.close()
    try:
        Client(4, "py-tls-stranger", tls={"ca_certs": None})
    except ssl.SSLCertVerificationError:
        return
    raise AssertionError("a certificate of an unknown authority was taken")


SCENARIOS = {
    "qos0": lambda v, b: both_ways(v, b, 0),
    "qos1": lambda v, b: both_ways(v, b, 1),
    "qos2": lambda v, b: both_ways(v, b, 2),
    "retained": retained,
    "will": will,
    "takeover": takeover,
    "takeover-142": takeover_142,
    "offline-restart": lambda v, b: offline(v, b, "restart"),
    "offline-kill9": lambda v, b: offline(v, b, "kill9"),
    "shared": shared,
    "payload-1mib": large,
    "properties": properties,
    "wrong-password": wrong_password,
    "anonymous": anonymous,
}
ONLY_V5 = {"takeover-142", "properties"}


def main():
    global over_web
    failed = 0
    for version, tag in ((4, "v311"), (5, "v5"), (4, "ws-v311"), (5, "ws-v5")):
        over_web = tag.startswith("ws-")
        for name, scenario in SCENARIOS.items():
            if version == 4 and name in ONLY_V5:
                continue
            try:
                scenario(version, f"py-{tag}-{name}")
                print(f"ok - {tag}/{name}", flush=True)
            except Exception as error:  # every failure is a result, and the next scenario runs
                failed += 1
                reason = str(error) or type(error).__name__
                print(f"not ok - {tag}/{name}: {reason}", flush=True)
                traceback.print_exc()
    try:
        tls()
        print("ok - tls", flush=True)
    except Exception as error:
        failed += 1
        print(f"not ok - tls: {str(error) or type(error).__name__}", flush=True)
        traceback.print_exc()
    # Threads of clients that a failed scenario left behind must not hold the end.
    sys.stdout.flush()
    os._exit(1 if failed else 0)


main()
