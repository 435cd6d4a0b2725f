"""A queue with priorities over a restart of both nodes: drain.py pour|drain.

HOST: the node that serves. `pour` publishes by three producers at a time and acks the first messages, until its node goes; `drain` reads all that is
left with one consumer. Lines: `confirmed PRODUCER N`, `acked PRODUCER N`, `drained PRODUCER N PRIORITY`.
"""

import os
import sys
import threading

import pika

HOST = os.environ["HOST"]
QUEUE = "d-priority"
PRIORITIES = 4
ACKED = 400
UNSETTLED = 150
speaking = threading.Lock()


def say(*words):
    with speaking:
        print(*words, flush=True)


def channel():
    login = pika.PlainCredentials("app", "app")
    ch = pika.BlockingConnection(pika.ConnectionParameters(HOST, 5672, credentials=login, heartbeat=0)).channel()
    ch.queue_declare(QUEUE, durable=True, arguments={"x-max-priority": PRIORITIES})
    return ch


def produce(producer):
    ch = channel()
    ch.confirm_delivery()
    n = producer * 1_000_000_000 + int(os.environ["ROUND"]) * 1_000_000
    while True:
        n += 1
        ch.basic_publish("", QUEUE, b"%d %d" % (producer, n), pika.BasicProperties(delivery_mode=2, priority=n % PRIORITIES))
        say("confirmed", producer, n)


def settle():
    """Some are acked, and what comes behind them is in hand when the node goes."""
    ch = channel()
    ch.basic_qos(prefetch_count=UNSETTLED)
    acked = 0
    for method, _, body in ch.consume(QUEUE):
        if acked < ACKED:
            ch.basic_ack(method.delivery_tag)
            acked += 1
            say("acked", body.decode())


def until_the_end(work, *what):
    try:
        work(*what)
    except (pika.exceptions.AMQPError, OSError):
        pass


def pour():
    channel()
    threads = [threading.Thread(target=until_the_end, args=(produce, producer)) for producer in (1, 2, 3)]
    threads.append(threading.Thread(target=until_the_end, args=(settle,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def drain():
    ch = channel()
    ch.basic_qos(prefetch_count=50)
    for method, properties, body in ch.consume(QUEUE, inactivity_timeout=1.0):
        if method is None:
            return
        ch.basic_ack(method.delivery_tag)
        say("drained", body.decode(), properties.priority)


{"pour": pour, "drain": drain}[sys.argv[1]]()
