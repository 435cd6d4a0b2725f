"""What every client of AMQP 0-9-1 does, by kombu, and its SimpleQueue and its pools."""

import os
import socket
import time
import uuid

from amqp.exceptions import AccessRefused, MessageNacked, NotFound, PreconditionFailed, ResourceLocked
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.pools import connections, producers

from tasks import BROKER, HOST

PORT = int(os.environ["AMQP_PORT"])
WAIT = 20


def connect(url=BROKER, **more):
    options = {"confirm_publish": True, "read_timeout": WAIT, "write_timeout": WAIT, **more}
    return Connection(url, transport_options=options, connect_timeout=WAIT)


def name(what):
    return f"kombu.{what}.{uuid.uuid4().hex[:8]}"


def control(command):
    """The broker goes down and comes back on the same port and store."""
    host, port = os.environ["AMQP_CONTROL"].rsplit(":", 1)
    with socket.create_connection((host, int(port))) as line:
        line.sendall(f"{command}\n".encode())
        answer = line.makefile().readline().strip()
        assert answer == "ok", answer


def take(connection, queue, count, prefetch=0, **more):
    """So many messages by a Consumer, with acknowledgements left to the caller."""
    got = []
    consumer = Consumer(connection.default_channel, [queue], on_message=got.append, **more)
    if prefetch:
        consumer.qos(prefetch_count=prefetch)
    with consumer:
        while len(got) < count:
            connection.drain_events(timeout=WAIT)
    assert len(got) == count, len(got)
    return got


def confirms():
    with connect() as connection:
        queue = Queue(name("confirms"), durable=True)(connection.default_channel)
        queue.declare()
        producer = connection.Producer()
        for n in range(100):
            producer.publish({"n": n}, routing_key=queue.name, delivery_mode=2, confirm_timeout=WAIT)
        assert queue.queue_declare(passive=True).message_count == 100
        assert queue.get().payload == {"n": 0}
        queue.delete()
        full = Queue(name("full"), queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"})(connection.default_channel)
        full.declare()
        producer.publish("1", routing_key=full.name)
        try:
            producer.publish("2", routing_key=full.name)
            raise AssertionError("it was taken")
        except MessageNacked:
            pass
        full.delete()


def consume_ack():
    with connect() as connection:
        exchange = Exchange(name("exchange"), "topic", durable=False, auto_delete=True)
        queue = Queue(name("consume"), exchange, routing_key="a.#")(connection.default_channel)
        producer = Producer(connection.default_channel, exchange)
        for n in range(200):
            producer.publish(n, routing_key=f"a.{n}", declare=[queue] if n == 0 else [])
        got = []

        def each(body, message):
            assert message.delivery_info["routing_key"] == f"a.{body}"
            got.append(body)
            message.ack()

        with Consumer(connection.default_channel, [queue], callbacks=[each], prefetch_count=10):
            while len(got) < 200:
                connection.drain_events(timeout=WAIT)
        assert got == list(range(200)), got
        assert queue.queue_declare(passive=True).message_count == 0
        queue.delete()


def redelivery():
    queue = Queue(name("redelivery"))
    first = connect()
    first.Producer().publish("again", routing_key=queue.name, declare=[queue])
    message = queue(first.default_channel).get()
    assert not message.delivery_info["redelivered"]
    # The connection is lost with the delivery in hand.
    first.connection.sock.shutdown(socket.SHUT_RDWR)
    first.collect()
    with connect() as second:
        bound = queue(second.default_channel)
        message = take(second, bound, 1)[0]
        assert message.delivery_info["redelivered"] and message.payload == "again"
        message.requeue()
        message = bound.get()
        assert message.delivery_info["redelivered"]
        message.reject()
        assert bound.get() is None
        bound.delete()


def mandatory():
    with connect() as connection:
        returned = []
        producer = connection.Producer(on_return=lambda *args: returned.append(args))
        nobody = name("nobody")
        producer.publish("back", routing_key=nobody, mandatory=True)
        producer.publish("gone", routing_key=nobody)
        assert len(returned) == 1, returned
        error, exchange, key, message = returned[0]
        assert (error.reply_code, exchange, key, message.body) == (312, "", nobody, "back"), (error, exchange, key, message.body)


def dead_letter():
    with connect() as connection:
        exchange = Exchange(name("dlx"), "fanout", durable=False)
        dead = Queue(name("dead"), exchange)(connection.default_channel)
        dead.declare()
        source = Queue(name("source"), message_ttl=0.001, queue_arguments={"x-dead-letter-exchange": exchange.name})
        connection.Producer().publish("late", routing_key=source.name, declare=[source], headers={"mine": "kept"})
        message = take(connection, dead, 1)[0]
        message.ack()
        death = message.headers["x-death"][0]
        assert message.payload == "late" and message.headers["mine"] == "kept"
        assert (death["reason"], death["queue"], death["count"]) == ("expired", source.name, 1), death
        assert death["routing-keys"] == [source.name] and message.headers["x-first-death-reason"] == "expired"
        source(connection.default_channel).delete()
        dead.delete()
        exchange(connection.default_channel).delete()


def ttl():
    with connect() as connection:
        queue = Queue(name("ttl"))(connection.default_channel)
        producer = connection.Producer()
        producer.publish("short", routing_key=queue.name, expiration=0.1, declare=[queue])
        producer.publish("long", routing_key=queue.name, expiration=60)
        time.sleep(2.2)
        message = queue.get(no_ack=True)
        assert message.payload == "long" and message.properties["expiration"] == "60000", message
        queue.delete()


def server_named():
    with connect() as connection, connect() as other:
        queue = Queue("", Exchange("amq.topic", "topic", no_declare=True), "a.*", exclusive=True)(connection.default_channel)
        queue.declare()
        assert queue.name.startswith("amq.gen-"), queue.name
        producer = connection.Producer()
        producer.publish("routed", exchange="amq.topic", routing_key="a.b")
        producer.publish("not", exchange="amq.topic", routing_key="a.b.c")
        got = []
        # kombu makes an exclusive queue an auto-delete one too: it ends with this consumer.
        with Consumer(connection.default_channel, [queue], on_message=got.append, no_ack=True, auto_declare=False):
            while not got:
                connection.drain_events(timeout=WAIT)
            assert got[0].payload == "routed" and got[0].delivery_info["routing_key"] == "a.b"
            try:
                other.channel().queue_declare(queue.name, passive=True)
                raise AssertionError("it is not exclusive")
            except ResourceLocked as error:
                assert error.reply_code == 405, error
    with connect() as connection:
        try:
            connection.channel().queue_declare(queue.name, passive=True)
            raise AssertionError("it outlived its connection")
        except NotFound as error:
            assert error.reply_code == 404, error


def rpc():
    with connect() as server, connect() as client:
        queue = Queue(name("rpc"), exclusive=True, durable=False)(server.default_channel)
        queue.declare()
        answers = []
        replies = Queue("amq.rabbitmq.reply-to", no_ack=True, no_declare=True)
        with Consumer(client.default_channel, [replies], on_message=answers.append, no_ack=True, auto_declare=False):
            client.Producer().publish("question", routing_key=queue.name, reply_to=replies.name, correlation_id="7")
            question = take(server, queue, 1)[0]
            reply_to = question.properties["reply_to"]
            assert question.payload == "question" and reply_to.startswith("amq.rabbitmq.reply-to."), reply_to
            server.Producer().publish("answer", routing_key=reply_to, correlation_id=question.properties["correlation_id"])
            while not answers:
                client.drain_events(timeout=WAIT)
        assert [(m.payload, m.properties["correlation_id"]) for m in answers] == [("answer", "7")]


def large():
    with connect() as connection:
        queue = Queue(name("large"))(connection.default_channel)
        queue.declare()
        producer = connection.Producer()
        for size in (0, 131_064, 131_065, 1 << 20, 5_000_000):
            body = (b"0123456789abcdef" * (size // 16 + 1))[:size]
            producer.publish(body, routing_key=queue.name, content_type="application/octet-stream", content_encoding="binary")
            message = queue.get(no_ack=True)
            back = message.body if isinstance(message.body, bytes) else message.body.encode()
            assert back == body, (size, len(back))
        queue.delete()


def clean_close():
    connection = connect()
    channel = connection.channel()
    channel.close()
    assert connection.connected
    connection.close()
    assert not connection.connected


def dirty_close():
    with connect() as connection:
        queue = Queue(name("dirty"), auto_delete=True)(connection.default_channel)
        queue.declare()
        raw = socket.create_connection((HOST, PORT))
        raw.sendall(b"AMQP\x00\x00\x09\x01" + b"\x01\x00\x00")
        raw.close()
        wrong = socket.create_connection((HOST, PORT), timeout=WAIT)
        wrong.sendall(b"GET / HTTP/1.1\r\n")
        assert wrong.recv(8) == b"AMQP\x00\x00\x09\x01"
        wrong.close()
        queue.delete()


def restart():
    """Confirmed persistent messages are there after kill -9, and kombu's own retry finds the broker again."""
    queue = Queue(name("restart"), durable=True)
    with connect() as connection:
        bound = queue(connection.default_channel)
        bound.declare()
        producer = connection.Producer()
        for n in range(50):
            producer.publish(n, routing_key=queue.name, delivery_mode=2)
        control("kill9")
        # The same connection object: it notices, reconnects and publishes.
        producer.publish(50, routing_key=queue.name, delivery_mode=2, retry=True, retry_policy={"max_retries": 20, "interval_start": 0.1})
        got = [message.payload for message in take(connection, queue(connection.default_channel), 51)]
        assert got == list(range(51)), got
        queue(connection.default_channel).delete()


def simple_queue():
    with connect() as connection:
        queue = connection.SimpleQueue(name("simple"))
        for n in range(10):
            queue.put({"n": n}, serializer="json", compression="zlib")
        assert queue.qsize() == 10
        for n in range(10):
            message = queue.get(timeout=WAIT)
            assert message.payload == {"n": n}
            message.ack()
        try:
            queue.get(timeout=0.2)
            raise AssertionError("there is more")
        except queue.Empty:
            pass
        queue.close()
        queue.queue.delete()
        buffer = connection.SimpleBuffer(name("buffer"))
        buffer.put("transient")
        assert buffer.get(timeout=WAIT).payload == "transient"
        buffer.close()


def pools():
    connection = connect()
    queue = Queue(name("pool"), Exchange(name("pooled"), "direct", auto_delete=True), "key", auto_delete=True)
    for n in range(3):
        with producers[connection].acquire(block=True, timeout=WAIT) as producer:
            producer.publish(n, exchange=queue.exchange, routing_key="key", declare=[queue], retry=True, priority=n)
    with connections[connection].acquire(block=True, timeout=WAIT) as pooled:
        got = take(pooled, queue(pooled.default_channel), 3, no_ack=True)
        assert [(m.payload, m.properties["priority"]) for m in got] == [(n, n) for n in range(3)]
    connections[connection].force_close_all()


def errors():
    """kombu's exceptions go by the codes."""
    with connect() as connection:
        queue = Queue(name("mine"), auto_delete=True)(connection.channel())
        queue.declare()
        try:
            Queue(queue.name, durable=False)(connection.channel()).declare()
            raise AssertionError("it was declared otherwise")
        except PreconditionFailed as error:
            assert error.reply_code == 406 and "inequivalent arg 'durable'" in error.reply_text, error
        queue.delete()
    try:
        connect(BROKER.replace("guest:guest", "guest:wrong")).connect()
        raise AssertionError("it was let in")
    except AccessRefused as error:
        assert error.reply_code == 403, error


def heartbeat():
    with Connection(BROKER, heartbeat=2) as connection:
        connection.connect()
        assert connection.get_heartbeat_interval() == 2
        end = time.monotonic() + 5
        while time.monotonic() < end:
            connection.heartbeat_check()
            try:
                connection.drain_events(timeout=0.5)
            except socket.timeout:
                pass
        connection.channel().close()


SCENARIOS = [
    ("confirms", confirms),
    ("consume-ack", consume_ack),
    ("redelivery", redelivery),
    ("mandatory", mandatory),
    ("dead-letter", dead_letter),
    ("ttl", ttl),
    ("server-named", server_named),
    ("rpc", rpc),
    ("large", large),
    ("clean-close", clean_close),
    ("dirty-close", dirty_close),
    ("simple-queue", simple_queue),
    ("pools", pools),
    ("errors", errors),
    ("heartbeat", heartbeat),
]
# After the workers' scenarios.
LAST = [("restart-kill9", restart)]
