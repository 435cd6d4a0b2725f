"""pika against a broker: a line of TAP for each scenario. AMQP_PORT says where; AMQP_CONTROL is a line protocol that restarts the broker."""

import os
import socket
import ssl
import sys
import time
import traceback
import uuid

import pika
from pika.exceptions import (AMQPConnectionError, ChannelClosedByBroker, ConnectionClosedByBroker, NackError,
                             ProbableAuthenticationError, UnroutableError)

HOST = os.environ.get("AMQP_HOST", "127.0.0.1")
PORT = int(os.environ["AMQP_PORT"])
TLS_PORT = int(os.environ.get("AMQP_TLS_PORT", "0"))
TLS_DIR = os.environ.get("TLS_DIR", "")
WAIT = 20


def parameters(user="guest", password="guest", **more):
    credentials = pika.PlainCredentials(user, password)
    return pika.ConnectionParameters(HOST, PORT, "/", credentials, blocked_connection_timeout=WAIT, socket_timeout=WAIT, **more)


def connect(**more):
    return pika.BlockingConnection(parameters(**more))


def name(what):
    return f"pika.{what}.{uuid.uuid4().hex[:8]}"


def take(channel, queue, count, **more):
    """So many deliveries, with acknowledgements left to the caller."""
    got = []
    for method, properties, body in channel.consume(queue, inactivity_timeout=WAIT, **more):
        assert method is not None, f"only {len(got)} of {count} came"
        got.append((method, properties, body))
        if len(got) == count:
            return got
    return got


def confirms():
    with connect() as connection:
        channel = connection.channel()
        queue = name("confirms")
        channel.queue_declare(queue, durable=True)
        channel.confirm_delivery()
        for n in range(100):
            channel.basic_publish("", queue, str(n), pika.BasicProperties(delivery_mode=2), mandatory=True)
        assert channel.queue_declare(queue, passive=True).method.message_count == 100
        channel.queue_delete(queue)


def consume_ack():
    with connect() as connection:
        channel = connection.channel()
        queue = name("consume")
        channel.queue_declare(queue, durable=True)
        for n in range(200):
            channel.basic_publish("", queue, str(n))
        channel.basic_qos(prefetch_count=10)
        got = []

        def each(channel, method, properties, body):
            got.append(int(body))
            channel.basic_ack(method.delivery_tag)
            if len(got) == 200:
                channel.stop_consuming()

        channel.basic_consume(queue, each)
        channel.start_consuming()
        assert got == list(range(200)), got
        assert channel.queue_declare(queue, passive=True).method.message_count == 0
        channel.queue_delete(queue)


def redelivery():
    queue = name("redelivery")
    first = connect()
    channel = first.channel()
    channel.queue_declare(queue)
    channel.basic_publish("", queue, "again")
    method, _, _ = channel.basic_get(queue)
    assert not method.redelivered
    # The connection is lost with the delivery in hand.
    first._impl._transport._sock.shutdown(socket.SHUT_RDWR)
    with connect() as second:
        channel = second.channel()
        method, _, body = take(channel, queue, 1)[0]
        assert method.redelivered and body == b"again"
        channel.basic_nack(method.delivery_tag, requeue=True)
        channel.cancel()
        method, _, body = channel.basic_get(queue)
        assert method.redelivered
        channel.basic_reject(method.delivery_tag, requeue=False)
        assert channel.basic_get(queue)[0] is None
        channel.queue_delete(queue)


def mandatory():
    with connect() as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        try:
            channel.basic_publish("", name("nobody"), "back", mandatory=True)
            raise AssertionError("it was not returned")
        except UnroutableError as error:
            returned = error.messages[0]
            assert returned.method.reply_code == 312 and returned.body == b"back", returned
        channel.basic_publish("", name("nobody"), "gone")


def dead_letter():
    with connect() as connection:
        channel = connection.channel()
        queue, dead, exchange = name("source"), name("dead"), name("dlx")
        channel.exchange_declare(exchange, "fanout")
        channel.queue_declare(dead)
        channel.queue_bind(dead, exchange)
        channel.queue_declare(queue, arguments={"x-dead-letter-exchange": exchange, "x-message-ttl": 1})
        channel.basic_publish("", queue, "late", pika.BasicProperties(headers={"mine": "kept"}))
        method, properties, body = take(channel, dead, 1)[0]
        death = properties.headers["x-death"][0]
        assert body == b"late" and properties.headers["mine"] == "kept"
        assert (death["reason"], death["queue"], death["count"]) == ("expired", queue, 1), death
        assert death["routing-keys"] == [queue] and properties.headers["x-first-death-reason"] == "expired"
        channel.cancel()
        channel.queue_delete(queue)
        channel.queue_delete(dead)
        channel.exchange_delete(exchange)


def ttl():
    with connect() as connection:
        channel = connection.channel()
        queue = name("ttl")
        channel.queue_declare(queue)
        channel.basic_publish("", queue, "short", pika.BasicProperties(expiration="100"))
        channel.basic_publish("", queue, "long", pika.BasicProperties(expiration="60000"))
        time.sleep(2.2)
        _, properties, body = channel.basic_get(queue, auto_ack=True)
        assert body == b"long" and properties.expiration == "60000", body
        channel.queue_delete(queue)


def server_named():
    with connect() as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        assert queue.startswith("amq.gen-"), queue
        channel.queue_bind(queue, "amq.topic", "a.*")
        channel.basic_publish("amq.topic", "a.b", "routed")
        channel.basic_publish("amq.topic", "a.b.c", "not")
        method, _, body = take(channel, queue, 1)[0]
        assert body == b"routed" and method.routing_key == "a.b" and method.exchange == "amq.topic"
        with connect() as other:
            try:
                other.channel().queue_declare(queue, passive=True)
                raise AssertionError("it is not exclusive")
            except ChannelClosedByBroker as error:
                assert error.reply_code == 405, error
    with connect() as connection:
        try:
            connection.channel().queue_declare(queue, passive=True)
            raise AssertionError("it outlived its connection")
        except ChannelClosedByBroker as error:
            assert error.reply_code == 404, error


def rpc():
    with connect() as server, connect() as client:
        queue = name("rpc")
        serving = server.channel()
        serving.queue_declare(queue, exclusive=True)
        asking = client.channel()
        got = []
        asking.basic_consume("amq.rabbitmq.reply-to", lambda c, m, p, body: got.append((p.correlation_id, body)), auto_ack=True)
        asking.basic_publish("", queue, "question", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id="7"))
        method, properties, body = take(serving, queue, 1)[0]
        assert body == b"question" and properties.reply_to.startswith("amq.rabbitmq.reply-to."), properties
        serving.basic_publish("", properties.reply_to, "answer", pika.BasicProperties(correlation_id=properties.correlation_id))
        end = time.monotonic() + WAIT
        while not got and time.monotonic() < end:
            client.process_data_events(0.1)
        assert got == [("7", b"answer")], got


def large():
    with connect() as connection:
        channel = connection.channel()
        queue = name("large")
        channel.queue_declare(queue)
        channel.confirm_delivery()
        for size in (0, 131_064, 131_065, 1 << 20, 5_000_000):
            body = (b"0123456789abcdef" * (size // 16 + 1))[:size]
            channel.basic_publish("", queue, body)
            _, _, back = channel.basic_get(queue, auto_ack=True)
            assert back == body, (size, len(back or b""))
        channel.queue_delete(queue)


def transactions():
    with connect() as connection:
        channel = connection.channel()
        queue = name("tx")
        channel.queue_declare(queue, durable=True)
        channel.tx_select()
        channel.basic_publish("", queue, "no")
        channel.tx_rollback()
        channel.basic_publish("", queue, "yes")
        channel.tx_commit()
        assert channel.queue_declare(queue, passive=True).method.message_count == 1
        method, _, body = channel.basic_get(queue)
        assert body == b"yes"
        channel.basic_ack(method.delivery_tag)
        channel.tx_rollback()
        channel.basic_ack(method.delivery_tag)
        channel.tx_commit()
        channel.queue_delete(queue)


def reject_publish():
    with connect() as connection:
        channel = connection.channel()
        queue = name("full")
        channel.queue_declare(queue, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
        channel.confirm_delivery()
        channel.basic_publish("", queue, "1")
        try:
            channel.basic_publish("", queue, "2")
            raise AssertionError("it was taken")
        except NackError:
            pass
        channel.queue_delete(queue)


def channel_error():
    with connect() as connection:
        one, two = connection.channel(), connection.channel()
        try:
            one.queue_declare(name("nope"), passive=True)
            raise AssertionError("no error")
        except ChannelClosedByBroker as error:
            assert error.reply_code == 404 and error.reply_text.startswith("NOT_FOUND - no queue 'pika.nope."), error
        # The connection goes on, and so does the number of the channel.
        two.queue_declare("", exclusive=True)
        connection.channel().queue_declare("", exclusive=True)


def cancel_notify():
    with connect() as connection, connect() as other:
        channel = connection.channel()
        queue = name("cancelled")
        channel.queue_declare(queue)
        cancelled = []
        channel.add_on_cancel_callback(cancelled.append)
        channel.basic_consume(queue, lambda *_: None)
        other.channel().queue_delete(queue)
        end = time.monotonic() + WAIT
        while not cancelled and time.monotonic() < end:
            connection.process_data_events(0.1)
        assert cancelled, "nothing was said"


def wrong_password():
    try:
        connect(user="guest", password="wrong")
        raise AssertionError("it was let in")
    except (ProbableAuthenticationError, ConnectionClosedByBroker) as error:
        assert "403" in str(error) or "ACCESS_REFUSED" in str(error), error


def no_vhost():
    try:
        pika.BlockingConnection(pika.ConnectionParameters(HOST, PORT, "nope", pika.PlainCredentials("guest", "guest")))
        raise AssertionError("it was let in")
    except (AMQPConnectionError, ConnectionClosedByBroker) as error:
        assert "vhost nope not found" in str(error) + repr(error.args), repr(error)


def heartbeat():
    with connect(heartbeat=2) as connection:
        end = time.monotonic() + 6
        while time.monotonic() < end:
            connection.process_data_events(0.5)
        connection.channel().queue_declare("", exclusive=True)


def clean_close():
    connection = connect()
    channel = connection.channel()
    channel.close()
    assert channel.is_closed and connection.is_open
    connection.close()
    assert connection.is_closed


def dirty_close():
    queue = name("dirty")
    with connect() as connection:
        connection.channel().queue_declare(queue, auto_delete=True)
        raw = socket.create_connection((HOST, PORT))
        raw.sendall(b"AMQP\x00\x00\x09\x01" + b"\x01\x00\x00")
        raw.close()
        wrong = socket.create_connection((HOST, PORT), timeout=WAIT)
        wrong.sendall(b"GET / HTTP/1.1\r\n")
        assert wrong.recv(8) == b"AMQP\x00\x00\x09\x01"
        connection.channel().queue_delete(queue)


def restart():
    """Confirmed persistent messages are there after kill -9."""
    control = os.environ.get("AMQP_CONTROL")
    if not control:
        return "no control"
    queue = name("restart")
    connection = connect()
    channel = connection.channel()
    channel.queue_declare(queue, durable=True)
    channel.confirm_delivery()
    for n in range(50):
        channel.basic_publish("", queue, str(n), pika.BasicProperties(delivery_mode=2))
    host, port = control.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as line:
        line.sendall(b"kill9\n")
        assert line.makefile().readline().strip() == "ok"
    with connect() as connection:
        channel = connection.channel()
        got = [int(body) for _, _, body in take(channel, queue, 50)]
        assert got == list(range(50)), got
        channel.cancel()
        channel.queue_delete(queue)
    return None


def tls():
    """With the server verified: PLAIN, and EXTERNAL by the client's certificate; neither without what it takes."""

    def over_tls(credentials, certificate=None, trust=f"{TLS_DIR}/ca.pem"):
        context = ssl.create_default_context(cafile=trust)
        if certificate:
            context.load_cert_chain(f"{TLS_DIR}/{certificate}.pem", f"{TLS_DIR}/{certificate}.key")
        options = pika.SSLOptions(context, "localhost")
        return pika.BlockingConnection(pika.ConnectionParameters(HOST, TLS_PORT, "/", credentials, ssl_options=options, socket_timeout=WAIT))

    plain, external = pika.PlainCredentials("guest", "guest"), pika.credentials.ExternalCredentials()
    for credentials, certificate in ((plain, None), (plain, "client"), (external, "client")):
        with over_tls(credentials, certificate) as connection:
            channel = connection.channel()
            queue = name("tls")
            channel.queue_declare(queue)
            channel.confirm_delivery()
            body = os.urandom(1 << 20)
            channel.basic_publish("", queue, body, mandatory=True)
            assert take(channel, queue, 1)[0][2] == body
            channel.queue_delete(queue)
    # Without a certificate EXTERNAL is not offered; and the system's authorities did not sign the broker's.
    for credentials, trust, wrong in ((external, f"{TLS_DIR}/ca.pem", AMQPConnectionError), (plain, None, ssl.SSLCertVerificationError)):
        try:
            over_tls(credentials, trust=trust).close()
        except wrong:
            continue
        raise AssertionError(f"{credentials} came in, trusting {trust}")


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
    ("tx", transactions),
    ("reject-publish", reject_publish),
    ("channel-error", channel_error),
    ("cancel-notify", cancel_notify),
    ("wrong-password", wrong_password),
    ("no-vhost", no_vhost),
    ("heartbeat", heartbeat),
    ("tls", tls),
    ("clean-close", clean_close),
    ("dirty-close", dirty_close),
    ("restart-kill9", restart),
]


def main():
    failed = 0
    chosen = sys.argv[1:]
    for scenario, run in SCENARIOS:
        if chosen and scenario not in chosen:
            continue
        try:
            skipped = run()
            print(f"ok - {scenario}" + (f" # SKIP {skipped}" if skipped else ""))
        except BaseException as error:  # every kind, so that each scenario has its line
            failed += 1
            print(f"not ok - {scenario}: {type(error).__name__}: {error}".replace("\n", " "))
            traceback.print_exc()
    sys.exit(1 if failed else 0)


main()
