"""aio-pika against a broker: a line of TAP for each scenario. AMQP_PORT says where; AMQP_CONTROL is a line protocol that restarts the broker."""

import asyncio
import contextlib
import logging
import os
import sys
import time
import traceback
import uuid

import aio_pika
from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.exceptions import (AuthenticationError, ChannelNotFoundEntity, ChannelPreconditionFailed, DeliveryError, ProbableAuthenticationError,
                                 QueueEmpty)
from aio_pika.patterns import RPC, Master
from aiormq.exceptions import ChannelLockedResource

HOST = os.environ.get("AMQP_HOST", "127.0.0.1")
PORT = int(os.environ["AMQP_PORT"])
WAIT = 20


def url(user="guest", password="guest", port=PORT, **query):
    more = "&".join(f"{key}={value}" for key, value in query.items())
    return f"amqp://{user}:{password}@{HOST}:{port}/?{more}"


async def connect(**query):
    return await aio_pika.connect(url(**query), timeout=WAIT)


async def robust(**query):
    return await aio_pika.connect_robust(url(reconnect_interval=0.3, fail_fast=0, **query), timeout=WAIT)


def name(what):
    return f"aio.{what}.{uuid.uuid4().hex[:8]}"


async def take(queue, count, **more):
    """So many deliveries by an iterator, with acknowledgements left to the caller."""
    got = []
    async with queue.iterator(timeout=WAIT, **more) as messages:
        async for message in messages:
            got.append(message)
            if len(got) == count:
                return got
    return got


async def get(queue, **more):
    """basic.get; None if there is nothing."""
    return await queue.get(timeout=WAIT, fail=False, **more)


class Wire:
    """Stands between a client and the broker, so that the connection can be cut."""

    async def __aenter__(self):
        self.writers = []
        self.server = await asyncio.start_server(self.join, "127.0.0.1")
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def join(self, reader, writer):
        to_broker = await asyncio.open_connection(HOST, PORT)
        self.writers += [writer, to_broker[1]]
        with contextlib.suppress(OSError):
            await asyncio.gather(self.pump(reader, to_broker[1]), self.pump(to_broker[0], writer))

    async def pump(self, reader, writer):
        while data := await reader.read(65536):
            writer.write(data)

    def cut(self):
        for writer in self.writers:
            writer.transport.abort()

    async def __aexit__(self, *_):
        self.cut()
        self.server.close()


async def control(command):
    host, port = os.environ["AMQP_CONTROL"].rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{command}\n".encode())
    answer = (await reader.readline()).strip()
    writer.close()
    assert answer == b"ok", answer


async def confirms():
    async with await connect() as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(name("confirms"), durable=True)
        # All at once, so that confirms may come for several.
        message = [Message(str(n).encode(), delivery_mode=DeliveryMode.PERSISTENT) for n in range(100)]
        acks = await asyncio.gather(*(channel.default_exchange.publish(m, queue.name) for m in message))
        assert all(ack.name == "Basic.Ack" for ack in acks), acks
        queue = await channel.declare_queue(queue.name, passive=True)
        assert queue.declaration_result.message_count == 100
        await queue.delete(if_empty=False)
        full = await channel.declare_queue(name("full"), arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
        await channel.default_exchange.publish(Message(b"1"), full.name)
        try:
            await channel.default_exchange.publish(Message(b"2"), full.name)
            raise AssertionError("it was taken")
        except DeliveryError:
            pass
        await full.delete(if_empty=False)


async def consume_ack():
    async with await connect() as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=10)
        queue = await channel.declare_queue(name("consume"), durable=True)
        for n in range(200):
            await channel.default_exchange.publish(Message(str(n).encode()), queue.name)
        got = []
        async with queue.iterator(timeout=WAIT) as messages:
            async for message in messages:
                async with message.process():
                    got.append(int(message.body))
                if len(got) == 200:
                    break
        assert got == list(range(200)), got
        assert (await channel.declare_queue(queue.name, passive=True)).declaration_result.message_count == 0
        await queue.delete()


async def redelivery():
    async with Wire() as wire:
        first = await connect(port=wire.port)
        channel = await first.channel()
        queue = await channel.declare_queue(name("redelivery"))
        await channel.default_exchange.publish(Message(b"again"), queue.name)
        message = await get(queue)
        assert not message.redelivered
        # The connection is lost with the delivery in hand.
        wire.cut()
    async with await connect() as second:
        channel = await second.channel()
        queue = await channel.get_queue(queue.name)
        message = (await take(queue, 1))[0]
        assert message.redelivered and message.body == b"again"
        await message.nack(requeue=True)
        message = await get(queue)
        assert message.redelivered
        await message.reject(requeue=False)
        assert await get(queue) is None
        await queue.delete()
    await first.close()


async def mandatory():
    async with await connect() as connection:
        nobody = name("nobody")
        strict = await connection.channel(on_return_raises=True)
        try:
            await strict.default_exchange.publish(Message(b"back"), nobody, mandatory=True)
            raise AssertionError("it was not returned")
        except DeliveryError as error:
            returned = error.message
            assert returned.delivery.reply_code == 312 and returned.body == b"back", returned
        channel = await connection.channel()
        heard = []
        channel.return_callbacks.add(lambda _, message: heard.append(message.body))
        await channel.default_exchange.publish(Message(b"heard"), nobody, mandatory=True)
        await channel.default_exchange.publish(Message(b"gone"), nobody, mandatory=False)
        assert heard == [b"heard"], heard


async def dead_letter():
    async with await connect() as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(name("dlx"), ExchangeType.FANOUT)
        dead = await channel.declare_queue(name("dead"))
        await dead.bind(exchange)
        source = await channel.declare_queue(name("source"), arguments={"x-dead-letter-exchange": exchange.name, "x-message-ttl": 1})
        await channel.default_exchange.publish(Message(b"late", headers={"mine": "kept"}), source.name)
        message = (await take(dead, 1))[0]
        await message.ack()
        death = message.headers["x-death"][0]
        assert message.body == b"late" and message.headers["mine"] == "kept"
        assert (death["reason"], death["queue"], death["count"]) == ("expired", source.name, 1), death
        assert death["routing-keys"] == [source.name] and message.headers["x-first-death-reason"] == "expired"
        await source.delete()
        await dead.delete()
        await exchange.delete()


async def ttl():
    async with await connect() as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(name("ttl"))
        await channel.default_exchange.publish(Message(b"short", expiration=0.1), queue.name)
        await channel.default_exchange.publish(Message(b"long", expiration=60), queue.name)
        await asyncio.sleep(2.2)
        message = await get(queue, no_ack=True)
        assert message.body == b"long" and message.expiration == 60, message
        await queue.delete()


async def server_named():
    async with await connect() as connection, await connect() as other:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        if not queue.name.startswith("amq.gen-"):
            # aio-pika makes up a name of its own here; ask for the server's.
            declared = await (await channel.get_underlay_channel()).queue_declare("", exclusive=True)
            queue = await channel.get_queue(declared.queue, ensure=False)
        assert queue.name.startswith("amq.gen-"), queue.name
        exchange = await channel.get_exchange("amq.topic")
        await queue.bind(exchange, "a.*")
        await exchange.publish(Message(b"routed"), "a.b")
        await exchange.publish(Message(b"not"), "a.b.c", mandatory=False)
        message = (await take(queue, 1))[0]
        assert message.body == b"routed" and message.routing_key == "a.b" and message.exchange == "amq.topic"
        try:
            await (await other.channel()).declare_queue(queue.name, passive=True)
            raise AssertionError("it is not exclusive")
        except ChannelLockedResource as error:
            assert "RESOURCE_LOCKED" in str(error), error
    async with await connect() as connection:
        try:
            await (await connection.channel()).declare_queue(queue.name, passive=True)
            raise AssertionError("it outlived its connection")
        except ChannelNotFoundEntity as error:
            assert "NOT_FOUND" in str(error), error


async def rpc():
    """Direct reply-to by hand, and the RPC pattern of aio-pika, which has a queue for results and a dead-letter exchange for what nobody took."""
    async with await connect() as server, await connect() as client:
        serving, asking = await server.channel(), await client.channel()
        queue = await serving.declare_queue(name("rpc"), exclusive=True)
        answers = asyncio.Queue()
        replies = await asking.get_queue("amq.rabbitmq.reply-to", ensure=False)
        await replies.consume(answers.put, no_ack=True)
        await asking.default_exchange.publish(Message(b"question", reply_to=replies.name, correlation_id="7"), queue.name)
        question = (await take(queue, 1))[0]
        assert question.body == b"question" and question.reply_to.startswith("amq.rabbitmq.reply-to."), question
        await serving.default_exchange.publish(Message(b"answer", correlation_id=question.correlation_id), question.reply_to)
        answer = await asyncio.wait_for(answers.get(), WAIT)
        assert (answer.body, answer.correlation_id) == (b"answer", "7"), answer

    async with await connect() as server, await connect() as client:
        method = name("add")

        async def add(*, a, b):
            return a + b

        serving = await RPC.create(await server.channel())
        await serving.register(method, add, auto_delete=True)
        asking = await RPC.create(await client.channel())
        sums = await asyncio.gather(*(asking.call(method, {"a": n, "b": n}) for n in range(20)))
        assert sums == [2 * n for n in range(20)], sums
        await asking.close()
        await serving.close()


async def large():
    async with await connect() as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(name("large"))
        for size in (0, 131_064, 131_065, 1 << 20, 5_000_000):
            body = (b"0123456789abcdef" * (size // 16 + 1))[:size]
            await channel.default_exchange.publish(Message(body), queue.name)
            message = await get(queue, no_ack=True)
            assert message.body == body, (size, len(message.body))
        await queue.delete()


async def properties():
    async with await connect() as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(name("properties"), exclusive=True)
        headers = {"text": "ü", "number": 1 << 40, "yes": True, "none": None, "half": 0.5, "list": [1, "two"], "table": {"in": -70000}}
        sent = Message(
            b"all", headers=headers, content_type="text/plain", content_encoding="none", priority=3, correlation_id="c", reply_to="r",
            message_id="m", timestamp=1_700_000_000, type="t", user_id="guest", app_id="a", delivery_mode=DeliveryMode.PERSISTENT,
        )
        await channel.default_exchange.publish(sent, queue.name)
        back = await get(queue, no_ack=True)
        assert back.headers == headers, back.headers
        for what in ("content_type", "content_encoding", "priority", "correlation_id", "reply_to", "message_id", "timestamp", "type", "user_id",
                     "app_id", "delivery_mode"):
            assert getattr(back, what) == getattr(sent, what), (what, getattr(back, what))


async def transaction():
    async with await connect() as connection:
        channel = await connection.channel(publisher_confirms=False)
        queue = await channel.declare_queue(name("tx"), durable=True)
        tx = channel.transaction()
        await tx.select()
        await channel.default_exchange.publish(Message(b"no"), queue.name)
        await tx.rollback()
        await channel.default_exchange.publish(Message(b"yes"), queue.name)
        await tx.commit()
        message = await get(queue)
        assert message.body == b"yes"
        await message.ack()
        await tx.commit()
        assert await get(queue) is None
        await queue.delete()


async def worker_pattern():
    """aio-pika's Master and Workers: tasks over several workers, one of which asks for another try."""
    async with await connect() as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        master, task, done = Master(channel), name("task"), []

        async def work(*, n, messages=done):
            messages.append(n)

        workers = [await master.create_worker(task, work, auto_delete=True) for _ in range(2)]
        for n in range(20):
            await master.create_task(task, kwargs={"n": n})
        end = time.monotonic() + WAIT
        while len(done) < 20 and time.monotonic() < end:
            await asyncio.sleep(0.02)
        assert sorted(done) == list(range(20)), done
        for worker in workers:
            await worker.close()


async def errors():
    async with await connect() as connection:
        one, two = await connection.channel(), await connection.channel()
        queue = await two.declare_queue(name("mine"), auto_delete=True)
        try:
            await one.declare_queue(queue.name, durable=True)
            raise AssertionError("it was declared otherwise")
        except ChannelPreconditionFailed as error:
            assert "inequivalent arg" in str(error), error
        # The connection goes on, and the other channel, too.
        await two.default_exchange.publish(Message(b"on"), queue.name)
        await queue.delete(if_empty=False)
    try:
        await connect(password="wrong")
        raise AssertionError("it was let in")
    except (AuthenticationError, ProbableAuthenticationError) as error:
        assert "ACCESS_REFUSED" in str(error) or "403" in str(error), error


async def clean_close():
    connection = await connect()
    channel = await connection.channel()
    await channel.close()
    assert channel.is_closed and not connection.is_closed
    await connection.close()
    assert connection.is_closed


async def dirty_close():
    async with await connect() as connection:
        queue = await (await connection.channel()).declare_queue(name("dirty"), auto_delete=True)
        _, raw = await asyncio.open_connection(HOST, PORT)
        raw.write(b"AMQP\x00\x00\x09\x01" + b"\x01\x00\x00")
        await raw.drain()
        raw.close()
        reader, wrong = await asyncio.open_connection(HOST, PORT)
        wrong.write(b"GET / HTTP/1.1\r\n")
        assert await asyncio.wait_for(reader.readexactly(8), WAIT) == b"AMQP\x00\x00\x09\x01"
        wrong.close()
        await queue.delete()


async def restart():
    """kill -9 under a robust connection: it comes back by itself, declares its queue again and consumes on; what was confirmed is there."""
    connection = await robust(name="robust")
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=100)
    kept = await channel.declare_queue(name("restart"), durable=True)
    exclusive = await channel.declare_queue(name("mine"), exclusive=True)
    exchange = await channel.declare_exchange(name("passing"), ExchangeType.FANOUT, auto_delete=True)
    await exclusive.bind(exchange)
    got = asyncio.Queue()
    await exclusive.consume(got.put, no_ack=True)
    for n in range(50):
        message = Message(str(n).encode(), delivery_mode=DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, kept.name)
    back = asyncio.Event()
    connection.reconnect_callbacks.add(lambda *_: back.set())
    await control("kill9")
    await asyncio.wait_for(back.wait(), 2 * WAIT)
    bodies = []
    await asyncio.wait_for(channel.ready(), WAIT)
    for _ in range(50):
        message = await get(kept)
        bodies.append(int(message.body))
        await message.ack()
    assert bodies == list(range(50)), bodies
    # The exclusive queue, its binding and its consumer were not durable: the client has made them again.
    await exchange.publish(Message(b"again"), "")
    assert (await asyncio.wait_for(got.get(), WAIT)).body == b"again"
    try:
        await kept.get(timeout=WAIT)
        raise AssertionError("there is more")
    except QueueEmpty:
        pass
    await kept.delete()
    await connection.close()


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
    ("properties", properties),
    ("tx", transaction),
    ("workers", worker_pattern),
    ("errors", errors),
    ("clean-close", clean_close),
    ("dirty-close", dirty_close),
    ("restart-kill9", restart),
]


async def main():
    failed = 0
    chosen = sys.argv[1:]
    for scenario, run in SCENARIOS:
        if chosen and scenario not in chosen:
            continue
        try:
            await asyncio.wait_for(run(), 3 * WAIT)
            print(f"ok - {scenario}")
        except BaseException as error:  # every kind, so that each scenario has its line
            failed += 1
            print(f"not ok - {scenario}: {type(error).__name__}: {error}".replace("\n", " "))
            traceback.print_exc()
    return failed


# The client reports lost connections at length, which here are meant.
logging.disable(logging.CRITICAL)
sys.exit(1 if asyncio.run(main()) else 0)
