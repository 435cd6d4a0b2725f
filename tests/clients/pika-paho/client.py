"""pika and Eclipse Paho against one broker: what one publishes, the other consumes. The rows are those of docs/conversions.md."""

import os
import queue
import socket
import sys
import time
import traceback
import uuid

import paho.mqtt.client as mqtt
import pika
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

AMQP = (os.environ["AMQP_HOST"], int(os.environ["AMQP_PORT"]))
MQTT = (os.environ["MQTT_HOST"], int(os.environ["MQTT_PORT"]))
USER, PASSWORD = os.environ["MQTT_USER"], os.environ["MQTT_PASSWORD"]
WAIT = 15
LONG = "x" * 300


def name(what):
    return f"{what}-{uuid.uuid4().hex[:8]}"


def equal(got, want, what):
    assert got == want, f"{what}: got {str(got)[:400]}, want {str(want)[:400]}"


def control(command):
    host, port = os.environ["AMQP_CONTROL"].rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(command.encode() + b"\n")
        answer = line.makefile().readline().strip()
    equal(answer, "ok", command)


class Device:
    """A connection of Paho; what it receives waits in a queue."""

    def __init__(self, client_id, keep=False, will=None, protocol=mqtt.MQTTv5):
        v5 = protocol == mqtt.MQTTv5
        extra = {} if v5 else {"clean_session": not keep}
        self.mqtt = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=protocol, reconnect_on_failure=False, **extra)
        self.v5 = v5
        self.messages, self.connects, self.subacks = queue.Queue(), queue.Queue(), queue.Queue()
        self.mqtt.on_message = lambda _c, _u, message: self.messages.put(message)
        self.mqtt.on_connect = lambda _c, _u, _flags, reason, _p: self.connects.put(reason)
        self.mqtt.on_subscribe = lambda _c, _u, _mid, reasons, _p: self.subacks.put(reasons)
        self.mqtt.username_pw_set(USER, PASSWORD)
        if will:
            topic, payload, qos, properties = will
            self.mqtt.will_set(topic, payload, qos, properties=properties)
        connect = {}
        if v5:
            connect["clean_start"] = not keep
            connect["properties"] = Properties(PacketTypes.CONNECT)
            connect["properties"].SessionExpiryInterval = 3600 if keep else 0
        self.mqtt.connect(*MQTT, keepalive=30, **connect)
        self.mqtt.loop_start()
        reason = self.connects.get(timeout=WAIT)
        assert not reason.is_failure, reason

    def subscribe(self, topic_filter):
        if self.v5:
            self.mqtt.subscribe(topic_filter, options=SubscribeOptions(qos=1))
        else:
            self.mqtt.subscribe(topic_filter, 1)
        equal([granted.value for granted in self.subacks.get(timeout=WAIT)], [1], "granted")
        return self

    def publish(self, topic, payload, qos=1, retain=False, **properties):
        info = self.mqtt.publish(topic, payload, qos, retain, said(**properties) if self.v5 else None)
        info.wait_for_publish(WAIT)
        assert info.is_published(), f"no answer to {topic}"

    def take(self):
        return self.messages.get(timeout=WAIT)

    def nothing_more(self):
        try:
            raise AssertionError(f"one more: {self.messages.get(timeout=0.3).topic}")
        except queue.Empty:
            pass

    def cut(self):
        self.mqtt.socket().shutdown(socket.SHUT_RDWR)
        self.mqtt.loop_stop()

    def close(self):
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


def said(kind=PacketTypes.PUBLISH, **properties):
    packet = Properties(kind)
    for key, value in properties.items():
        setattr(packet, key, value)
    return packet


class App:
    """A connection of pika with one channel."""

    def __init__(self):
        credentials = pika.PlainCredentials(USER, PASSWORD)
        parameters = pika.ConnectionParameters(*AMQP, "/", credentials, socket_timeout=WAIT, blocked_connection_timeout=WAIT)
        self.connection = pika.BlockingConnection(parameters)
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()

    def bound(self, *keys, durable=True, **arguments):
        queue_name = name("q")
        self.channel.queue_declare(queue_name, durable=durable, arguments=arguments.get("arguments"))
        for key in keys:
            self.channel.queue_bind(queue_name, "amq.topic", key)
        return queue_name

    def publish(self, key, body, exchange="amq.topic", **properties):
        self.channel.basic_publish(exchange, key, body, pika.BasicProperties(**properties), mandatory=True)

    def take(self, queue_name):
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            method, properties, body = self.channel.basic_get(queue_name, auto_ack=True)
            if method:
                return method, properties, body
            time.sleep(0.02)
        raise AssertionError(f"nothing came to {queue_name}")

    def close(self):
        self.connection.close()


def fields(properties):
    """What pika shows, without what is not there."""
    return {key: value for key, value in vars(properties).items() if value is not None}


FROM_MQTT = [
    ("nothing", {}, {}),
    ("format", {"PayloadFormatIndicator": 1}, {}),
    ("expiry", {"MessageExpiryInterval": 3600}, {"expiration": "3600000"}),
    ("content type", {"ContentType": "text/plain"}, {"content_type": "text/plain"}),
    ("response topic", {"ResponseTopic": "re/1.2/x"}, {"headers": {"x-reply-to-topic": "re.1%2E2.x"}}),
    ("correlation", {"CorrelationData": b"id-1"}, {"correlation_id": "id-1"}),
    ("binary correlation", {"CorrelationData": b"\x00\xff"}, {"headers": {"x-correlation-id": b"\x00\xff"}}),
    ("long correlation", {"CorrelationData": LONG.encode()}, {"headers": {"x-correlation-id": LONG}}),
    ("user properties", {"UserProperty": [("b", "2"), ("a", "1")]}, {"headers": {"a": "1", "b": "2"}}),
    ("repeated", {"UserProperty": [("a", "1"), ("a", "2")]}, {"headers": {"a": "1"}}),
    ("text", {"UserProperty": [("grüße", "日本")]}, {"headers": {"grüße": "日本"}}),
]

FROM_AMQP = [
    ("nothing", {}, {}),
    ("content type", {"content_type": "text/plain"}, {"ContentType": "text/plain"}),
    ("encoding", {"content_encoding": "gzip"}, {"UserProperty": [("content-encoding", "gzip")]}),
    ("correlation", {"correlation_id": "id-1"}, {"CorrelationData": b"id-1"}),
    ("reply topic", {"headers": {"x-reply-to-topic": "re.1%2E2.x"}}, {"ResponseTopic": "re/1.2/x"}),
    ("reply to", {"reply_to": "answers"}, {}),
    ("message id", {"message_id": "m"}, {"UserProperty": [("message-id", "m")]}),
    ("timestamp", {"timestamp": 1_700_000_000}, {"UserProperty": [("timestamp", "1700000000")]}),
    ("type", {"type": "t"}, {"UserProperty": [("type", "t")]}),
    ("app id", {"app_id": "a"}, {"UserProperty": [("app-id", "a")]}),
    ("user id", {"user_id": "guest"}, {}),
    ("priority", {"priority": 3}, {}),
    ("text", {"headers": {"k": "grüße"}}, {"UserProperty": [("k", "grüße")]}),
    ("numbers", {"headers": {"i": 7, "l": -(1 << 40), "b": True}}, {"UserProperty": [("i", "7"), ("l", str(-(1 << 40))), ("b", "true")]}),
    ("void", {"headers": {"v": None}}, {"UserProperty": [("v", "")]}),
    ("nested", {"headers": {"t": {"a": 1}, "l": [1, 2], "k": "v"}}, {"UserProperty": [("k", "v")]}),
]


def shown(message):
    """What Paho shows of a PUBLISH."""
    if message.properties is None:
        return {}
    names = ["PayloadFormatIndicator", "ContentType", "ResponseTopic", "CorrelationData", "UserProperty"]
    return {key: getattr(message.properties, key) for key in names if hasattr(message.properties, key)}


def mqtt_to_amqp(qos, killed=False):
    base = name("m")
    app, device = App(), Device(name("d"))
    waiting = app.bound(f"{base}.#", durable=qos > 0)
    for row, properties, _ in FROM_MQTT:
        device.publish(f"{base}/row", row, qos, **properties)
    device.close()
    if killed:
        control("kill9")
        app = App()
    for row, _, want in FROM_MQTT:
        method, properties, body = app.take(waiting)
        equal(body.decode(), row, "order")
        equal((method.exchange, method.routing_key), ("amq.topic", f"{base}.row"), row)
        equal(fields(properties), {"delivery_mode": 2 if qos else 1, **want}, row)
    app.channel.queue_delete(waiting)
    app.close()


def amqp_to_mqtt(mode, killed=False):
    base, who = name("a"), name("d")
    device = Device(who, keep=killed).subscribe(f"{base}/#")
    if killed:
        device.close()
    app = App()
    for row, properties, _ in FROM_AMQP:
        app.publish(f"{base}.row", row, delivery_mode=mode, **properties)
    if killed:
        control("kill9")
        device = Device(who, keep=True)
    else:
        app.close()
    for row, _, want in FROM_AMQP:
        message = device.take()
        equal(message.payload.decode(), row, "order")
        equal((message.topic, message.qos, message.retain), (f"{base}/row", mode - 1, False), row)
        equal(shown(message), want, row)
    device.nothing_more()
    device.close()


def older_versions():
    base = name("old")
    app, device = App(), Device(name("d"), protocol=mqtt.MQTTv311).subscribe(f"{base}/in/#")
    waiting = app.bound(f"{base}.out.#")
    device.publish(f"{base}/out/a.b", b"\x00\xff")
    method, properties, body = app.take(waiting)
    equal((method.routing_key, body, fields(properties)), (f"{base}.out.a%2Eb", b"\x00\xff", {"delivery_mode": 2}), "out")
    app.publish(f"{base}.in.a%2Eb", b"\x00\xff", headers={"k": "v"}, delivery_mode=2)
    message = device.take()
    equal((message.topic, message.payload, message.qos), (f"{base}/in/a.b", b"\x00\xff", 1), "in")
    device.close()
    app.close()


def patterns():
    base = name("p")
    app, device = App(), Device(name("d"))
    waiting = app.bound(f"{base}.*.#")
    for topic in ["", "/a", "/a/b", "/10.0.0.1/x"]:
        device.publish(base + topic, topic)
    for key in [".a", ".a.b", ".10%2E0%2E0%2E1.x"]:
        equal(app.take(waiting)[0].routing_key, base + key, "binding")
    device.subscribe(f"{base}/+/b")
    for key in [".a", ".a.b", ".a.b.c", ".x%2Ey.b"]:
        app.channel.basic_publish("amq.topic", base + key, key)
    equal([device.take().topic, device.take().topic], [f"{base}/a/b", f"{base}/x.y/b"], "filter")
    device.nothing_more()
    device.close()
    app.close()


def headers_exchange():
    base, exchange = name("h"), name("x")
    app, device = App(), Device(name("d"))
    app.channel.exchange_declare(exchange, "headers")
    app.channel.exchange_bind(exchange, "amq.topic", f"{base}.#")
    waiting = app.bound()
    app.channel.queue_bind(waiting, exchange, "", arguments={"x-match": "all", "kind": "temp", "room": "1"})
    device.publish(f"{base}/s", "no", UserProperty=[("kind", "temp")])
    device.publish(f"{base}/s", "yes", UserProperty=[("room", "1"), ("kind", "temp")])
    equal(app.take(waiting)[2], b"yes", "the one that matches")
    device.close()
    app.close()


def request_response():
    base = name("rpc")
    app, device = App(), Device("10.0.0.7-" + base).subscribe(f"{base}/re/10.0.0.7")
    questions = app.bound(f"{base}.ask")
    device.publish(f"{base}/ask", "?", ResponseTopic=f"{base}/re/10.0.0.7", CorrelationData=b"c-1")
    _, properties, _ = app.take(questions)
    app.publish(properties.headers["x-reply-to-topic"], "!", correlation_id=properties.correlation_id)
    answer = device.take()
    equal((answer.topic, shown(answer)), (f"{base}/re/10.0.0.7", {"CorrelationData": b"c-1"}), "answer to MQTT")
    answers = app.bound(f"{base}.answers")
    device.subscribe(f"{base}/serve")
    app.publish(f"{base}.serve", "?", correlation_id="c-2", headers={"x-reply-to-topic": f"{base}.answers"})
    question = device.take()
    device.publish(question.properties.ResponseTopic, "!", CorrelationData=question.properties.CorrelationData)
    _, properties, body = app.take(answers)
    equal((body, properties.correlation_id), (b"!", "c-2"), "answer to AMQP")
    device.close()
    app.close()


def expiry():
    base, who = name("e"), name("d")
    Device(who, keep=True).subscribe(f"{base}/#").close()
    app = App()
    app.publish(f"{base}.short", "short", expiration="500", delivery_mode=2)
    app.publish(f"{base}.long", "long", expiration="60000", delivery_mode=2)
    time.sleep(1.5)
    device = Device(who, keep=True)
    message = device.take()
    equal(message.payload, b"long", "what is left")
    assert 50 <= message.properties.MessageExpiryInterval <= 59, message.properties.MessageExpiryInterval
    device.nothing_more()
    device.close()
    app.close()


def will():
    base = name("w")
    app = App()
    waiting = app.bound(f"{base}.#")
    properties = said(PacketTypes.WILLMESSAGE, ContentType="text/plain", UserProperty=[("k", "v")])
    Device(name("d"), will=(f"{base}/gone", "bye", 1, properties)).cut()
    method, properties, body = app.take(waiting)
    equal((method.routing_key, body), (f"{base}.gone", b"bye"), "will")
    equal(fields(properties), {"delivery_mode": 2, "content_type": "text/plain", "headers": {"k": "v"}}, "its properties")
    app.close()


def retained():
    base = name("r")
    app, device = App(), Device(name("d"))
    waiting = app.bound(f"{base}.#")
    device.publish(f"{base}/mqtt", "kept", retain=True)
    app.channel.basic_publish("amq.topic", f"{base}.amqp", "not kept")
    equal([app.take(waiting)[2], app.take(waiting)[2]], [b"kept", b"not kept"], "both, live")
    device.subscribe(f"{base}/#")
    message = device.take()
    equal((message.topic, message.retain), (f"{base}/mqtt", True), "the retained one")
    device.nothing_more()
    device.publish(f"{base}/mqtt", "", retain=True)
    device.close()
    app.close()


def dead_letter():
    base = name("dl")
    app, device = App(), Device(name("d")).subscribe(f"{base}/dead")
    arguments = {"x-dead-letter-exchange": "amq.topic", "x-dead-letter-routing-key": f"{base}.dead"}
    dying = app.bound(f"{base}.in", arguments=arguments)
    app.publish(dying, "amqp", exchange="", expiration="1", headers={"k": "v"}, delivery_mode=2)
    device.publish(f"{base}/in", "mqtt", MessageExpiryInterval=1, UserProperty=[("k", "v")])
    for body in [b"amqp", b"mqtt"]:
        message = device.take()
        equal((message.payload, message.topic, shown(message)), (body, f"{base}/dead", {"UserProperty": [("k", "v")]}), "dead")
        assert not hasattr(message.properties, "MessageExpiryInterval"), "it would expire again"
    device.nothing_more()
    device.close()
    app.close()


def large():
    base = name("large")
    app, device = App(), Device(name("d")).subscribe(f"{base}/in")
    waiting = app.bound(f"{base}.out")
    body = os.urandom(1 << 20)
    device.publish(f"{base}/out", body, UserProperty=[("k", "v")])
    equal(app.take(waiting)[2] == body, True, "1 MiB to AMQP")
    app.publish(f"{base}.in", body, headers={"k": "v"})
    equal(device.take().payload == body, True, "1 MiB to MQTT")
    device.close()
    app.close()


SCENARIOS = [
    ("mqtt-to-amqp/transient", lambda: mqtt_to_amqp(0)),
    ("mqtt-to-amqp/durable", lambda: mqtt_to_amqp(1)),
    ("mqtt-to-amqp/kill9", lambda: mqtt_to_amqp(1, killed=True)),
    ("amqp-to-mqtt/transient", lambda: amqp_to_mqtt(1)),
    ("amqp-to-mqtt/durable", lambda: amqp_to_mqtt(2)),
    ("amqp-to-mqtt/kill9", lambda: amqp_to_mqtt(2, killed=True)),
    ("older-versions", older_versions),
    ("patterns", patterns),
    ("headers-exchange", headers_exchange),
    ("request-response", request_response),
    ("expiry", expiry),
    ("will", will),
    ("retained", retained),
    ("dead-letter", dead_letter),
    ("large", large),
]


def main():
    failed = 0
    chosen = sys.argv[1:]
    for scenario, run in SCENARIOS:
        if chosen and scenario not in chosen:
            continue
        try:
            run()
            print(f"ok - {scenario}")
        except BaseException as error:  # every kind, so that each scenario has its line
            failed += 1
            print(f"not ok - {scenario}: {type(error).__name__}: {error}".replace("\n", " "))
            traceback.print_exc()
    sys.exit(1 if failed else 0)


main()
