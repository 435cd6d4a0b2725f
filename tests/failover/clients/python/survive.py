"""What has to be there after a failover, as other people's libraries see it: survive.py backlog|setup|hold|check.

HOST: the node that serves. `backlog` publishes 10,000 messages that nobody touches, `setup` makes what is to be found, `hold` has deliveries, a transaction
and a will in hand until somebody kills it, and `check` says a line, `ok NAME` or `bad NAME: WHY`, for each thing.
"""

import os
import sys
import time

import paho.mqtt.client as mqtt
import pika
import stomp

HOST = os.environ["HOST"]
DURABLE = pika.BasicProperties(delivery_mode=2)
BACKLOG = 10_000
DELAY = 4.0
failed = []


def channel():
    login = pika.PlainCredentials("app", "app")
    return pika.BlockingConnection(pika.ConnectionParameters(HOST, 5672, credentials=login, heartbeat=0)).channel()


def mqtt_client(name, will=None):
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)
    if will:
        client.will_set(*will, qos=1)
    client.connect(HOST, 1883)
    client.loop_start()
    until("connected", client.is_connected)
    return client


def until(what, condition, within=10.0):
    deadline = time.time() + within
    while not condition():
        if time.time() > deadline:
            raise AssertionError(f"not within {within} s: {what}")
        time.sleep(0.01)


def stomp_connection(listener=None):
    connection = stomp.Connection12([(HOST, 61613)], vhost="/")
    if listener:
        connection.set_listener("", listener)
    connection.connect("app", "app", wait=True, headers={"client-id": "survive"})
    return connection


STOMP_DURABLE = {"durable": "true", "auto-delete": "false", "receipt": "subscribed"}


class Heard(stomp.ConnectionListener):
    def __init__(self):
        self.bodies, self.receipts = [], set()

    def on_message(self, frame):
        self.bodies.append(frame.body)

    def on_receipt(self, frame):
        self.receipts.add(frame.headers["receipt-id"])


def put(ch, queue, bodies, **properties):
    for n, body in enumerate(bodies):
        given = {key: value(n) if callable(value) else value for key, value in properties.items()}
        ch.basic_publish("", queue, str(body).encode(), pika.BasicProperties(delivery_mode=2, **given))


def take(ch, queue):
    """All of a queue: body, flag, headers."""
    found = []
    while True:
        method, properties, body = ch.basic_get(queue, auto_ack=True)
        if method is None:
            return found
        found.append((body.decode(), method.redelivered, properties.headers or {}))


def bodies(found):
    return [body for body, _, _ in found]


def backlog():
    ch = channel()
    ch.queue_declare("s-backlog-dead", durable=True)
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 3, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "s-backlog-dead"}
    ch.queue_declare("s-backlog", durable=True, arguments=arguments)
    ch.tx_select()
    for n in range(BACKLOG):
        ch.basic_publish("", "s-backlog", str(n).encode(), DURABLE)
        if n % 1000 == 999:
            ch.tx_commit()


def setup():
    ch = channel()
    ch.confirm_delivery()
    to_dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "s-dead"}
    for name in ["s-order", "s-held", "s-tx", "s-late", "s-dead"]:
        ch.queue_declare(name, durable=True)
    ch.queue_declare("s-priority", durable=True, arguments={"x-max-priority": 5})
    ch.queue_declare("s-ttl", durable=True, arguments=to_dead)
    ch.queue_declare("s-refuse", durable=True, arguments=to_dead)
    put(ch, "s-order", range(200))
    put(ch, "s-priority", range(60), priority=lambda n: n % 6)
    put(ch, "s-held", range(10))
    put(ch, "s-refuse", ["refused"])
    method, _, _ = ch.basic_get("s-refuse")
    ch.basic_reject(method.delivery_tag, requeue=False)
    tx = channel()
    tx.tx_select()
    put(tx, "s-tx", range(5))
    tx.tx_commit()
    client = mqtt_client("survive-session")
    # Whoever subscribes finds out from the answer.
    done = set()
    client.on_subscribe = lambda *rest: done.add("subscribed")
    client.subscribe([("s/will", 1), ("s/session", 2)])
    until("subscribed", lambda: done)
    client.disconnect()
    client.loop_stop()
    client = mqtt_client("survive-publisher")
    for n in range(20):
        client.publish("s/session", str(n), qos=2).wait_for_publish(10)
    client.publish("s/retained", "old", qos=1, retain=True).wait_for_publish(10)
    client.publish("s/retained", "new", qos=1, retain=True).wait_for_publish(10)
    client.disconnect()
    heard = Heard()
    connection = stomp_connection(heard)
    connection.subscribe("/topic/s.durable", id="s", ack="auto", headers=STOMP_DURABLE)
    until("subscribed", lambda: heard.receipts)
    connection.disconnect(receipt="bye")
    until("gone", lambda: "bye" in heard.receipts)
    heard = Heard()
    connection = stomp_connection(heard)
    for n in range(20):
        connection.send("/topic/s.durable", str(n), headers={"persistent": "true", "receipt": f"r{n}"})
    until("receipts", lambda: len(heard.receipts) == 20)
    connection.disconnect()
    # Their time begins now.
    ch.exchange_declare("s-delayed", "x-delayed-message", durable=True, arguments={"x-delayed-type": "direct"})
    ch.queue_bind("s-late", "s-delayed", "late")
    headers = pika.BasicProperties(delivery_mode=2, headers={"x-delay": int(DELAY * 1000)})
    ch.basic_publish("s-delayed", "late", str(time.time()).encode(), headers)
    put(ch, "s-ttl", ["short"], expiration="2000")
    put(ch, "s-ttl", ["long"], expiration="600000")


def hold():
    ch, tx = channel(), channel()
    for _ in range(10):
        ch.basic_get("s-held")
    tx.tx_select()
    put(tx, "s-tx", ["open"] * 5)
    # An answer to something after it: the transaction has reached the broker.
    tx.queue_declare("s-tx", passive=True)
    mqtt_client("survive-will", will=("s/will", "the will"))
    print("held", flush=True)
    time.sleep(60)


def case(name, check):
    try:
        check()
        print(f"ok {name}", flush=True)
    except Exception as error:  # a line for each, whatever it is
        failed.append(name)
        print(f"bad {name}: {type(error).__name__} {error}", flush=True)


def equal(found, wanted):
    if found != wanted:
        raise AssertionError(f"{found!r}, not {wanted!r}"[:400])


def check():
    ch = channel()

    def delayed():
        early = ch.basic_get("s-late", auto_ack=True)[2]
        found = [early] if early else []
        until("a delayed message", lambda: found or [found.append(body) for body in [ch.basic_get("s-late", auto_ack=True)[2]] if body], 15)
        age = time.time() - float(found[0])
        if not DELAY - 0.2 <= age <= DELAY + 5:
            raise AssertionError(f"it was handed out {age:.1f} s after it was published, not {DELAY}")

    def held():
        found = take(ch, "s-held")
        equal(bodies(found), [str(n) for n in range(10)])
        equal([flag for _, flag, _ in found], [True] * 10)

    def dead():
        until("two dead letters", lambda: ch.queue_declare("s-dead", passive=True).method.message_count == 2)
        deaths = {body: headers["x-death"][0] for body, _, headers in take(ch, "s-dead")}
        equal({body: (death["queue"], death["reason"], death["count"]) for body, death in deaths.items()},
              {"refused": ("s-refuse", "rejected", 1), "short": ("s-ttl", "expired", 1)})

    def whole_backlog():
        equal(ch.queue_declare("s-backlog", passive=True).method.message_count, BACKLOG)
        equal(ch.queue_declare("s-backlog-dead", passive=True).method.message_count, 0)
        found = take(ch, "s-backlog")
        equal(len(found), BACKLOG)
        equal(bodies(found) == [str(n) for n in range(BACKLOG)], True)

    def session():
        heard = []
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="survive-session", clean_session=False)
        client.on_message = lambda _, userdata, message: heard.append((message.topic, message.payload.decode()))
        client.connect(HOST, 1883)
        client.loop_start()
        until("20 messages and a will", lambda: len(heard) >= 21, 20)
        time.sleep(0.3)
        equal([body for topic, body in heard if topic == "s/session"], [str(n) for n in range(20)])
        equal([body for topic, body in heard if topic == "s/will"], ["the will"])
        client.on_message = lambda _, userdata, message: heard.append((message.retain, message.payload.decode()))
        client.subscribe("s/retained", 1)
        until("a retained message", lambda: len(heard) == 22)
        equal(heard[-1], (True, "new"))

    def durable():
        heard = Heard()
        connection = stomp_connection(heard)
        connection.subscribe("/topic/s.durable", id="s", ack="auto", headers=STOMP_DURABLE)
        until("20 messages", lambda: len(heard.bodies) >= 20)
        time.sleep(0.2)
        equal(heard.bodies, [str(n) for n in range(20)])

    by_priority = [str(n) for priority in range(5, -1, -1) for n in range(60) if min(n % 6, 5) == priority]
    case("delayed", delayed)
    case("order", lambda: equal(bodies(take(ch, "s-order")), [str(n) for n in range(200)]))
    case("priority", lambda: equal(bodies(take(ch, "s-priority")), by_priority))
    case("unsettled", held)
    case("transaction", lambda: equal(bodies(take(ch, "s-tx")), [str(n) for n in range(5)]))
    case("dead-letters", dead)
    case("ttl", lambda: equal(bodies(take(ch, "s-ttl")), ["long"]))
    case("session-will-retained", session)
    case("stomp-durable", durable)
    case("backlog", whole_backlog)


{"backlog": backlog, "setup": setup, "hold": hold, "check": check}[sys.argv[1]]()
os._exit(1 if failed else 0)
