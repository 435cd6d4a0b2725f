"""stomp.py against a broker: a line of TAP for each scenario. STOMP_PORT says where; STOMP_CONTROL is a line protocol that restarts the
broker."""

import os
import queue
import socket
import sys
import time
import traceback
import uuid

import stomp
from stomp.exception import ConnectFailedException

HOST = os.environ.get("STOMP_HOST", "127.0.0.1")
PORT = int(os.environ["STOMP_PORT"])
# A listener of ActiveMQ's dialect, where there is one.
ACTIVEMQ_PORT = int(os.environ.get("ACTIVEMQ_PORT", "0"))
WAIT = 20
VERSIONS = {"1.0": stomp.StompConnection10, "1.1": stomp.StompConnection11, "1.2": stomp.StompConnection12}


class Events(stomp.ConnectionListener):
    """Frames in queues, to be waited for."""

    def __init__(self):
        self.messages, self.receipts, self.errors, self.ends = (queue.Queue() for _ in range(4))

    def on_message(self, frame):
        self.messages.put(frame)

    def on_receipt(self, frame):
        self.receipts.put(frame.headers["receipt-id"])

    def on_error(self, frame):
        self.errors.put(frame)

    def on_disconnected(self):
        self.ends.put(True)

    def take(self, count):
        return [self.messages.get(timeout=WAIT) for _ in range(count)]

    def bodies(self, count):
        return [frame.body for frame in self.take(count)]

    def nothing(self, secs=0.3):
        try:
            frame = self.messages.get(timeout=secs)
        except queue.Empty:
            return
        raise AssertionError(f"nothing was expected: {frame.headers} {frame.body}")

    def receipt(self, wanted):
        got = self.receipts.get(timeout=WAIT)
        assert got == wanted, (got, wanted)


class Client:
    def __init__(self, version="1.2", user="guest", password="guest", port=PORT, **more):
        self.version = version
        if version != "1.0":
            more["vhost"] = "/"
        self.conn = VERSIONS[version]([(HOST, port)], reconnect_attempts_max=1, timeout=WAIT, **more)
        self.events = Events()
        self.conn.set_listener("", self.events)
        self.conn.connect(user, password, wait=True)
        self.count = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.conn.is_connected():
            self.conn.disconnect()

    def confirmed(self, call, *args, **more):
        """With a receipt, and when that has come."""
        self.count += 1
        receipt = f"r{self.count}"
        call(*args, receipt=receipt, **more)
        self.events.receipt(receipt)

    def send(self, destination, body, **headers):
        self.confirmed(self.conn.send, destination, body, **headers)

    def subscribe(self, destination, id="1", ack="auto", **headers):
        self.confirmed(self.conn.subscribe, destination, id=id, ack=ack, **headers)

    def settle(self, what, frame, **more):
        """In each version's way."""
        headers = frame.headers
        if self.version == "1.2":
            what(headers["ack"], **more)
        elif self.version == "1.1":
            what(headers["message-id"], headers["subscription"], **more)
        else:
            what(headers["message-id"], **more)

    def cut(self):
        self.conn.transport.socket.shutdown(socket.SHUT_RDWR)
        self.events.ends.get(timeout=WAIT)


def name(what):
    return f"/queue/stomp-py.{what}.{uuid.uuid4().hex[:8]}"


def gone(where):
    """Nothing is left in this queue."""
    with Client() as client:
        client.subscribe(where)
        client.events.nothing()


def versions():
    for version in VERSIONS:
        with Client(version) as client:
            where = name("versions")
            client.subscribe(where, ack="client")
            value = "a" if version == "1.0" else "a:b\\c\nd"
            client.send(where, "body", mine=value)
            frame = client.events.take(1)[0]
            assert frame.body == "body" and frame.headers["mine"] == value, frame.headers
            assert ("ack" in frame.headers) == (version == "1.2"), frame.headers
            client.settle(client.conn.ack, frame)
        gone(where)


def receipts():
    with Client() as client:
        where = name("receipts")
        for n in range(100):
            client.conn.send(where, str(n), receipt=f"s{n}", persistent="true")
        for n in range(100):
            client.events.receipt(f"s{n}")
        client.subscribe(where)
        assert client.events.bodies(100) == [str(n) for n in range(100)]


def ack_auto():
    where = name("auto")
    with Client() as client:
        client.subscribe(where)
        client.send(where, "once")
        assert client.events.bodies(1) == ["once"]
        client.cut()
    gone(where)


def ack_client():
    """An ACK is for all before it; the rest comes again."""
    for version in ("1.0", "1.1", "1.2"):
        where = name("client")
        with Client(version) as client:
            client.subscribe(where, ack="client")
            [client.send(where, str(n)) for n in range(5)]
            frames = client.events.take(5)
            client.settle(client.conn.ack, frames[2], receipt="acked")
            client.events.receipt("acked")
            client.cut()
        with Client(version) as client:
            client.subscribe(where)
            frames = client.events.take(2)
            assert [(frame.body, frame.headers["redelivered"]) for frame in frames] == [("3", "true"), ("4", "true")], frames


def ack_client_individual():
    for version in ("1.1", "1.2"):
        where = name("individual")
        with Client(version) as client:
            client.subscribe(where, ack="client-individual")
            [client.send(where, str(n)) for n in range(3)]
            client.settle(client.conn.ack, client.events.take(3)[1], receipt="acked")
            client.events.receipt("acked")
            client.cut()
        with Client(version) as client:
            client.subscribe(where)
            assert client.events.bodies(2) == ["0", "2"]


def nack():
    where, dead = name("nack"), f"/topic/stomp-py.dead.{uuid.uuid4().hex[:8]}"
    key = dead.rsplit("/", 1)[1]
    with Client() as client:
        client.subscribe(dead, id="dead")
        arguments = {"x-dead-letter-exchange": "amq.topic", "x-dead-letter-routing-key": key}
        client.subscribe(where, id="1", ack="client-individual", **arguments)
        client.send(where, "again", **arguments)
        frame = client.events.take(1)[0]
        client.settle(client.conn.nack, frame)
        frame = client.events.take(1)[0]
        assert frame.headers["redelivered"] == "true" and frame.body == "again", frame.headers
        client.settle(client.conn.nack, frame, requeue="false")
        frame = client.events.take(1)[0]
        assert frame.headers["subscription"] == "dead" and frame.headers["x-first-death-reason"] == "rejected", frame.headers
        client.events.nothing()


def transaction():
    where, back = name("tx"), name("tx-back")
    with Client() as client:
        client.subscribe(where, ack="client-individual")
        client.subscribe(back, id="2")
        client.send(where, "task")
        frame = client.events.take(1)[0]
        client.conn.begin(transaction="one")
        client.conn.send(back, "never", transaction="one")
        client.settle(client.conn.ack, frame, transaction="one")
        client.confirmed(client.conn.abort, "one")
        client.events.nothing()
        client.conn.begin(transaction="two")
        client.conn.send(back, "done", transaction="two")
        client.settle(client.conn.ack, frame, transaction="two")
        client.events.nothing()
        client.confirmed(client.conn.commit, "two")
        assert client.events.bodies(1) == ["done"]
    gone(where)


def heart_beat():
    """The library drops a connection on which nothing comes for so long, and so does the broker."""
    with Client(heartbeats=(1000, 1000)) as client:
        time.sleep(5)
        assert client.conn.is_connected()
        where = name("beat")
        client.subscribe(where)
        client.send(where, "alive")
        assert client.events.bodies(1) == ["alive"]
    raw = socket.create_connection((HOST, PORT), timeout=WAIT)
    raw.sendall(b"STOMP\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\nheart-beat:1000,0\n\n\0")
    assert b"heart-beat:0,1000" in raw.recv(4096)
    started = time.monotonic()
    assert raw.recv(4096) == b""
    assert 1 < time.monotonic() - started < 6


def durable_subscription():
    key, headers = f"/topic/stomp-py.durable.{uuid.uuid4().hex[:8]}", {"durable": "true", "auto-delete": "false"}
    with Client() as client:
        client.subscribe(key, id="mine", ack="client", **headers)
    with Client() as client:
        client.send(key, "kept", persistent="true")
        control("kill9")
    with Client() as client:
        client.subscribe(key, id="mine", ack="client", **headers)
        frame = client.events.take(1)[0]
        assert frame.body == "kept" and frame.headers["subscription"] == "mine"
        client.settle(client.conn.ack, frame)
        client.confirmed(client.conn.unsubscribe, "mine", destination=key, durable="true")
    with Client() as client:
        client.send(key, "nobody")
        client.subscribe(key, id="mine", **headers)
        client.events.nothing()
        client.confirmed(client.conn.unsubscribe, "mine", destination=key, durable="true")


def reply_queue():
    where = name("service")
    with Client() as asks, Client() as answers:
        answers.subscribe(where)
        asks.send(where, "question", **{"reply-to": "/temp-queue/answers", "correlation-id": "7"})
        frame = answers.events.take(1)[0]
        assert frame.headers["reply-to"].startswith("/reply-queue/"), frame.headers
        answers.send(frame.headers["reply-to"], "answer", **{"correlation-id": frame.headers["correlation-id"]})
        frame = asks.events.take(1)[0]
        assert (frame.body, frame.headers["correlation-id"]) == ("answer", "7"), frame.headers
        assert frame.headers["subscription"] == "/temp-queue/answers", frame.headers


def topics():
    key = f"stomp-py.{uuid.uuid4().hex[:8]}"
    with Client() as client:
        client.subscribe(f"/topic/{key}.*.end", id="star")
        client.subscribe(f"/exchange/amq.topic/{key}.#", id="hash")
        client.send(f"/topic/{key}.a.end", "both")
        client.send(f"/topic/{key}.a.b", "one")
        got = sorted((frame.headers["subscription"], frame.body) for frame in client.events.take(3))
        assert got == [("hash", "both"), ("hash", "one"), ("star", "both")], got


def prefetch():
    where = name("prefetch")
    with Client() as client:
        [client.send(where, str(n)) for n in range(3)]
        client.subscribe(where, ack="client-individual", **{"prefetch-count": "1"})
        for n in range(3):
            frame = client.events.take(1)[0]
            assert frame.body == str(n)
            client.events.nothing(0.2)
            client.settle(client.conn.ack, frame)


def properties():
    sent = {"content-type": "text/plain", "correlation-id": "c", "priority": "5", "expiration": "60000", "amqp-message-id": "m", "type": "t",
            "timestamp": "123", "app-id": "a", "user-id": "guest", "persistent": "true", "x-mine": "kept: ä"}
    with Client() as client:
        where = name("properties")
        client.subscribe(where)
        client.send(where, "body ä", **sent)
        frame = client.events.take(1)[0]
        assert frame.body == "body ä"
        assert {key: frame.headers.get(key) for key in sent} == sent, frame.headers


def large():
    with Client(auto_decode=False) as client:
        where = name("large")
        client.subscribe(where)
        for size in (0, 1, 4095, 65536, 3_000_000):
            body = (bytes(range(256)) * (size // 256 + 1))[:size]
            client.send(where, body)
            got = client.events.take(1)[0].body
            assert (got if isinstance(got, bytes) else got.encode()) == body, (size, len(got))


def error_closes():
    with Client() as client:
        client.conn.send("/exchange/stomp-py-nope", "body", receipt="no")
        frame = client.events.errors.get(timeout=WAIT)
        assert frame.headers["message"] == "not_found" and "no exchange 'stomp-py-nope'" in frame.body, frame
        client.events.ends.get(timeout=WAIT)
        assert client.events.receipts.empty()


def wrong_password():
    for password in ("wrong", ""):
        try:
            Client(password=password)
        except ConnectFailedException:
            continue
        raise AssertionError("it was let in")


def disconnect_receipt():
    where = name("disconnect")
    client = Client()
    for n in range(20):
        client.conn.send(where, str(n), persistent="true")
    client.conn.disconnect(receipt="bye")
    client.events.ends.get(timeout=WAIT)
    with Client() as client:
        client.subscribe(where)
        assert client.events.bodies(20) == [str(n) for n in range(20)]


def control(word):
    address = os.environ["STOMP_CONTROL"].rsplit(":", 1)
    with socket.create_connection((address[0], int(address[1]))) as line:
        line.sendall(word.encode() + b"\n")
        answer = line.makefile().readline().strip()
        assert answer == "ok", answer


def receipt_kill9():
    """What has a receipt is there after kill -9, and what was settled with one does not come again."""
    where = name("kill9")
    with Client() as client:
        client.subscribe(where, ack="client-individual")
        for n in range(60):
            client.conn.send(where, str(n), receipt=f"s{n}", persistent="true")
        frames = client.events.take(60)
        for n in range(60):
            client.events.receipt(f"s{n}")
        for frame in frames[:20]:
            client.settle(client.conn.ack, frame)
        client.conn.begin(transaction="t")
        client.settle(client.conn.ack, frames[20], transaction="t")
        client.conn.send(where, "in the transaction", transaction="t", persistent="true")
        client.confirmed(client.conn.commit, "t")
        client.conn.begin(transaction="open")
        client.conn.send(where, "never", transaction="open", persistent="true", receipt="taken")
        control("kill9")
    with Client() as client:
        client.subscribe(where, ack="client")
        frames = client.events.take(40)
        expected = [str(n) for n in range(21, 60)] + ["in the transaction"]
        assert [frame.body for frame in frames] == expected, [frame.body for frame in frames]
        client.events.nothing()


def tls():
    """With the server verified, by password and by the client's certificate; a client that trusts somebody else leaves."""
    folder, port = os.environ["TLS_DIR"], int(os.environ["STOMP_TLS_PORT"])

    def over_tls(ca, user=None, password=None, **more):
        conn = stomp.Connection12([(HOST, port)], vhost="/", reconnect_attempts_max=1, timeout=WAIT)
        conn.set_ssl([(HOST, port)], ca_certs=ca, **more)
        conn.set_listener("", events := Events())
        conn.connect(user, password, wait=True)
        return conn, events

    own = {"cert_file": f"{folder}/client.pem", "key_file": f"{folder}/client.key"}
    for login, more in ((("guest", "guest"), {}), ((None, None), own)):
        conn, events = over_tls(f"{folder}/ca.pem", *login, **more)
        conn.subscribe("/queue/stomp-py-tls", id="1", ack="auto")
        body = "x" * (1 << 20)
        conn.send("/queue/stomp-py-tls", body)
        assert events.messages.get(timeout=WAIT).body == body
        conn.disconnect()
    # The broker's own certificate signs nobody, itself included.
    try:
        over_tls(f"{folder}/client.pem", "guest", "guest")
    except stomp.exception.ConnectFailedException:
        return
    raise AssertionError("a certificate of an unknown authority was taken")


def activemq_selector():
    """Of a queue, where what it leaves stays for others, and of a topic."""
    where, topic = name("selector"), name("selector").replace("/queue/", "/topic/")
    with Client(port=ACTIVEMQ_PORT) as reds, Client(port=ACTIVEMQ_PORT) as rest:
        reds.subscribe(where, id="1", selector="color = 'red' AND size IS NOT NULL")
        reds.subscribe(topic, id="2", selector="convert_string_expressions:size > 15")
        for n in range(20):
            headers = {"color": "red" if n % 2 else "blue", "size": str(n)}
            rest.send(where, f"queue {n}", **headers)
            rest.send(topic, f"topic {n}", **headers)
        expected = [f"queue {n}" for n in range(1, 20, 2)] + [f"topic {n}" for n in range(16, 20)]
        assert sorted(reds.events.bodies(14)) == sorted(expected)
        reds.events.nothing()
        rest.subscribe(where, id="3")
        assert rest.events.bodies(10) == [f"queue {n}" for n in range(0, 20, 2)]


def activemq_browser():
    where = name("browser")
    with Client(port=ACTIVEMQ_PORT) as client, Client("1.1", port=ACTIVEMQ_PORT) as looks:
        for n in range(500):
            client.conn.send(where, str(n))
        client.send(where, "500")
        for attempt in "ab":
            looks.conn.subscribe(where, id=attempt, ack="auto", browser="true")
            frames = looks.events.take(502)
            assert [frame.body for frame in frames[:-1]] == [str(n) for n in range(501)]
            assert frames[-1].headers["browser"] == "end" and frames[-1].headers["subscription"] == attempt, frames[-1].headers
        client.subscribe(where)
        assert client.events.bodies(501) == [str(n) for n in range(501)]
        looks.events.nothing()


def activemq_groups():
    """Three workers, of which one is slow: each group comes to one of them, in order, and goes to another when that one is cut."""
    where = name("groups")
    workers = [Client(port=ACTIVEMQ_PORT) for _ in range(3)]
    for worker in workers:
        worker.subscribe(where, ack="client-individual", **{"activemq.prefetchSize": "1000"})
    with Client(port=ACTIVEMQ_PORT) as client:
        for n in range(300):
            client.conn.send(where, f"{n % 10} {n // 10}", JMSXGroupID=f"group-{n % 10}", persistent="true")
        client.send(where, "last")
        held = []
        for worker in workers:
            held.append([frame.body for frame in drain(worker, 1) if frame.body != "last"])
        whose = {}
        for at, bodies in enumerate(held):
            for group in {body.split()[0] for body in bodies}:
                assert whose.setdefault(group, at) == at, f"group {group} came to two"
                assert [body for body in bodies if body.split()[0] == group] == [f"{group} {n}" for n in range(30)]
        assert len(whose) == 10 and all(held), whose
        workers[0].cut()
        moved = [group for group, at in whose.items() if at == 0]
        again = [frame.body for worker in workers[1:] for frame in drain(worker, 2)]
        for group in moved:
            assert [body for body in again if body.split()[0] == group] == [f"{group} {n}" for n in range(30)], again
    for worker in workers[1:]:
        worker.conn.disconnect()


def drain(client, secs):
    """What comes until nothing has for so long."""
    frames = []
    while True:
        try:
            frames.append(client.events.messages.get(timeout=secs))
        except queue.Empty:
            return frames


def activemq_temporary():
    """An answer by a temporary topic; an exclusive consumer and its successor."""
    where = name("temporary")
    with Client(port=ACTIVEMQ_PORT) as asks, Client(port=ACTIVEMQ_PORT) as answers:
        asks.subscribe("/temp-topic/answers", id="a")
        answers.subscribe(where)
        asks.send(where, "question", **{"reply-to": "/temp-topic/answers", "correlation-id": "7"})
        frame = answers.events.messages.get(timeout=WAIT)
        answers.send(frame.headers["reply-to"], "answer", **{"correlation-id": frame.headers["correlation-id"]})
        frame = asks.events.messages.get(timeout=WAIT)
        assert (frame.body, frame.headers["destination"], frame.headers["correlation-id"]) == ("answer", "/temp-topic/answers", "7")
        alone = Client(port=ACTIVEMQ_PORT)
        alone.subscribe(where, **{"activemq.exclusive": "true"})
        for n in range(20):
            asks.send(where, str(n))
        assert alone.events.bodies(20) == [str(n) for n in range(20)]
        alone.confirmed(alone.conn.unsubscribe, "1")
        asks.send(where, "after")
        assert answers.events.bodies(1) == ["after"]
        alone.conn.disconnect()


SCENARIOS = [
    ("versions", versions),
    ("receipts", receipts),
    ("ack-auto", ack_auto),
    ("ack-client", ack_client),
    ("ack-client-individual", ack_client_individual),
    ("nack", nack),
    ("transaction", transaction),
    ("heart-beat", heart_beat),
    ("durable-subscription", durable_subscription),
    ("reply-queue", reply_queue),
    ("topics", topics),
    ("prefetch", prefetch),
    ("properties", properties),
    ("large", large),
    ("error-closes", error_closes),
    ("wrong-password", wrong_password),
    ("disconnect-receipt", disconnect_receipt),
    ("receipt-kill9", receipt_kill9),
    ("tls", tls),
    ("activemq-selector", activemq_selector),
    ("activemq-browser", activemq_browser),
    ("activemq-groups", activemq_groups),
    ("activemq-temporary", activemq_temporary),
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
