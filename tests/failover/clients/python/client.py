"""A library with the addresses of both nodes: publishes numbered messages and consumes them again, through whatever happens to the pair.

client.py paho-v311|paho-v5|paho-qos2|pika|stomp-py. HOSTS: the addresses, in the order in which they are tried; PRODUCER: its number. It prints
`sent N` before a message leaves, `confirmed N`, `at HOST` when a publisher is let in, `refused HOST WHY` when it is not, and `got N` for what its
consumer receives. Once its standard input ends it sends no more, waits for what it lacks (at most 20 s), and ends.
"""

import os
import queue
import sys
import threading
import time

HOSTS = os.environ["HOSTS"].split(",")
PRODUCER = os.environ["PRODUCER"]
NAME = sys.argv[1]
# Messages under way, and between two of them.
WINDOW, PAUSE = 10, 0.01
PATIENCE = 20

lock = threading.Lock()
over = threading.Event()
stopped = threading.Event()
# Somebody keeps what is published from then on.
subscribed = threading.Event()
confirmed, got, twice = set(), set(), []


def say(line):
    with lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def note_confirmed(n):
    confirmed.add(n)
    say(f"confirmed {n}")


def note_got(body):
    words = body.split()
    if words[0] == PRODUCER:
        if int(words[1]) in got and NAME == "paho-qos2":
            twice.append(int(words[1]))
        got.add(int(words[1]))
        say(f"got {words[1]}")


def body_of(n):
    return f"{PRODUCER} {n} {'x' * 80}"


def paho(version):
    """It has no list of addresses: whoever uses it connects the same client to the next one, and the client sends again what is unconfirmed."""
    import paho.mqtt.client as mqtt
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    v5 = version != "v311"
    qos = 2 if version == "qos2" else 1
    windows = threading.Semaphore(WINDOW)
    mids, ahead = {}, queue.Queue()

    class Careful(mqtt.Client):
        """paho 2.1 forgets with the second connection that does not come about (a standby refuses it, or nobody listens) that a PUBREL is due, and
        publishes the message again, which MQTT 5.0, 4.3.3 forbids: whoever has released an identifier cannot tell that from a new message."""

        def _messages_reconnect_reset_out(self):
            due = [message for message in self._out_messages.values() if message.state == mqtt.mqtt_ms_resend_pubrel]
            super()._messages_reconnect_reset_out()
            for message in due:
                message.state = mqtt.mqtt_ms_resend_pubrel

    def make(suffix):
        extra = {} if v5 else {"clean_session": False}
        return Careful(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=f"{NAME}-{suffix}",
            protocol=mqtt.MQTTv5 if v5 else mqtt.MQTTv311,
            reconnect_on_failure=False,
            **extra,
        )

    def network(client, told):
        options = {}
        if v5:
            options["properties"] = Properties(PacketTypes.CONNECT)
            options["properties"].SessionExpiryInterval = 0xFFFFFFFF
            options["clean_start"] = False
        client.connect_timeout = 1.0
        at = 0
        while not stopped.is_set():
            host = HOSTS[at % len(HOSTS)]
            told["host"] = host
            try:
                client.connect(host, 1883, keepalive=5, **options)
                client.loop_forever()
            except OSError:
                pass
            at += 1
            time.sleep(0.02)

    def connected(told, client, flags, code, properties):
        if code.is_failure:
            reference = getattr(properties, "ServerReference", "") if properties else ""
            say(f"refused {told['host']} {code.value} {reference}")
        elif told["who"] == "publisher":
            say(f"at {told['host']}")
        else:
            client.subscribe(f"t/{NAME}", qos=qos)

    def published(client, userdata, mid, *rest):
        while mid not in mids:  # publish() has not come back yet
            time.sleep(0.0005)
        note_confirmed(mids.pop(mid))
        windows.release()

    publisher, consumer = make("publisher"), make("consumer")
    publisher.on_publish = published
    consumer.on_subscribe = lambda *rest: subscribed.set()
    consumer.on_message = lambda client, userdata, message: note_got(message.payload.decode())
    for client, who in ((consumer, "consumer"), (publisher, "publisher")):
        told = {"who": who}
        client.on_connect = lambda client, userdata, flags, code, properties, told=told: connected(told, client, flags, code, properties)
        threading.Thread(target=network, args=(client, told), daemon=True).start()
    n = 0
    subscribed.wait(PATIENCE)
    while not over.is_set():
        if not windows.acquire(timeout=0.2):
            continue
        n += 1
        say(f"sent {n}")
        mids[publisher.publish(f"t/{NAME}", body_of(n), qos=qos).mid] = n
        time.sleep(PAUSE)


def pika_client():
    """It takes a list of addresses; what was not confirmed is sent again by whoever uses it."""
    import pika

    def parameters(shift):
        of = [HOSTS[(at + shift) % len(HOSTS)] for at in range(len(HOSTS))]
        login = pika.PlainCredentials("app", "app")
        return [
            pika.ConnectionParameters(host, 5672, credentials=login, heartbeat=4, socket_timeout=1, stack_timeout=2, connection_attempts=1)
            for host in of
        ]

    def forever(work):
        shift = 0
        while not stopped.is_set():
            try:
                connection = pika.BlockingConnection(parameters(shift))
                work(connection)
            except (pika.exceptions.AMQPError, OSError) as error:
                if "stands by" in str(error):
                    say(f"refused ? {error}")
                time.sleep(0.02)
            shift += 1

    def declare(channel):
        channel.queue_declare("fo-pika", durable=True)
        channel.queue_bind("fo-pika", "amq.topic", "t.pika")

    def consume(connection):
        channel = connection.channel()
        declare(channel)
        subscribed.set()
        channel.basic_qos(prefetch_count=50)
        for method, _, body in channel.consume("fo-pika", inactivity_timeout=0.5):
            if stopped.is_set():
                return
            if method is not None:
                note_got(body.decode())
                channel.basic_ack(method.delivery_tag)

    state = {"n": 0, "open": False}

    def publish(connection):
        say(f"at {connection._impl.params.host}")
        channel = connection.channel()
        declare(channel)
        channel.confirm_delivery()
        properties = pika.BasicProperties(delivery_mode=2)
        subscribed.wait(PATIENCE)
        while not (over.is_set() and not state["open"]):
            if not state["open"]:
                state["n"] += 1
                state["open"] = True
            say(f"sent {state['n']}")
            channel.basic_publish("amq.topic", "t.pika", body_of(state["n"]).encode(), properties)
            note_confirmed(state["n"])
            state["open"] = False
            connection.sleep(PAUSE)
        stopped.wait()

    for work in (consume, publish):
        threading.Thread(target=forever, args=(work,), daemon=True).start()
    over.wait()


def stomp_py():
    """It takes a list of addresses; whoever uses it connects again when it says that it was disconnected."""
    import stomp

    windows = threading.Semaphore(WINDOW)
    open_ones = {}

    class Listener(stomp.ConnectionListener):
        def __init__(self, who):
            self.who, self.lost = who, threading.Event()

        def on_error(self, frame):
            say(f"refused ? {frame.headers.get('message', '')} {frame.body}".replace("\n", " "))

        def on_disconnected(self):
            self.lost.set()

        def on_message(self, frame):
            note_got(frame.body)

        def on_receipt(self, frame):
            if frame.headers["receipt-id"] == "subscribed":
                return subscribed.set()
            n = int(frame.headers["receipt-id"])
            if open_ones.pop(n, None):
                note_confirmed(n)
                windows.release()

    def forever(who, work):
        shift = 0
        while not stopped.is_set():
            hosts = [(HOSTS[(at + shift) % len(HOSTS)], 61613) for at in range(len(HOSTS))]
            connection = stomp.Connection12(hosts, vhost="/", reconnect_attempts_max=1, reconnect_sleep_initial=0.02, timeout=1, heartbeats=(2000, 2000))
            listener = Listener(who)
            connection.set_listener("", listener)
            try:
                connection.connect("app", "app", wait=True, headers={"client-id": f"stomp-{who}"})
                work(connection, listener)
            except (stomp.exception.StompException, OSError):
                time.sleep(0.02)
            try:
                connection.transport.stop()
            except Exception:
                pass
            shift += 1

    def consume(connection, listener):
        connection.subscribe(f"/topic/t.{NAME}", id="fo", ack="auto", headers={"durable": "true", "auto-delete": "false", "receipt": "subscribed"})
        while not listener.lost.wait(0.1) and not stopped.is_set():
            pass

    def send(connection, n):
        say(f"sent {n}")
        connection.send(f"/topic/t.{NAME}", body_of(n), headers={"persistent": "true", "receipt": str(n)})

    state = {"n": 0}

    def publish(connection, listener):
        say(f"at {connection.transport.current_host_and_port[0]}")
        subscribed.wait(PATIENCE)
        for n in sorted(open_ones):
            send(connection, n)
        while not listener.lost.is_set() and not stopped.is_set():
            if over.is_set() or not windows.acquire(timeout=0.05):
                time.sleep(0.02)
                continue
            state["n"] += 1
            open_ones[state["n"]] = True
            send(connection, state["n"])
            time.sleep(PAUSE)

    for who, work in (("consumer", consume), ("publisher", publish)):
        threading.Thread(target=forever, args=(who, work), daemon=True).start()
    over.wait()


def last_words():
    sys.stdin.read()
    over.set()


threading.Thread(target=last_words, daemon=True).start()
if NAME.startswith("paho-"):
    paho(NAME.removeprefix("paho-"))
elif NAME == "pika":
    pika_client()
elif NAME == "stomp-py":
    stomp_py()
else:
    sys.exit(f"no client {NAME}")
deadline = time.time() + PATIENCE
while time.time() < deadline and not confirmed <= got:
    time.sleep(0.02)
time.sleep(0.2)
stopped.set()
missing = sorted(confirmed - got)
say(f"end {len(confirmed)} {len(missing)} {' '.join(map(str, missing[:5]))}")
if twice:
    say(f"end {len(confirmed)} 0: at QoS 2 these came twice: {twice[:5]}")
os._exit(1 if missing or twice else 0)
