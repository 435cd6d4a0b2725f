"""Mosquitto's own command line clients, mosquitto_pub and mosquitto_sub, against a broker, over MQTT 3.1.1 and 5."""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

HOST = os.environ["MQTT_HOST"]
PORT = os.environ["MQTT_PORT"]
WAIT = 10
END = "end"

# What the tools print for a CONNACK code.
TEXTS = {
    "4": "Connection Refused: bad user name or password",
    "5": "Connection Refused: not authorised",
    "134": "Bad User Name or Password",
    "135": "Not authorized",
}


def arguments(version, user, password):
    login = ["-u", user, "-P", password] if user else []
    return ["-h", HOST, "-p", PORT, "-V", "5" if version == 5 else "311", "-k", "30", *login]


def guest(version):
    return arguments(version, os.environ["MQTT_USER"], os.environ["MQTT_PASSWORD"])


def pub(version, *options, data=None, check=True, login=None):
    command = ["mosquitto_pub", *(login or guest(version)), *options]
    done = subprocess.run(command, input=data, capture_output=True, timeout=60, check=False)
    if check and (done.returncode != 0 or done.stderr):
        raise AssertionError(f"mosquitto_pub {' '.join(options)[:100]}: exit {done.returncode}, {done.stderr.decode()}")
    return done


class Sub:
    """A running mosquitto_sub; its messages wait in a queue as (topic, payload, qos, retain), its debug lines in another."""

    live = []

    def __init__(self, version, filters, *options, login=None):
        topics = [word for topic_filter in filters for word in ("-t", topic_filter)]
        # stdbuf: what goes into a pipe must not wait for more.
        command = ["stdbuf", "-oL", "mosquitto_sub", *(login or guest(version)), "-d", "-F", "M|%t|%x|%q|%r|%F|%E|%C|%R|%D|%S|%P", *topics, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.messages, self.debug, self.full = queue.Queue(), queue.Queue(), queue.Queue()
        Sub.live.append(self)
        threading.Thread(target=self.read, daemon=True).start()
        self.seen("received SUBACK")
        granted = self.seen("Subscribed")
        assert "128" not in granted, granted

    def read(self):
        for line in self.process.stdout:
            line = line.decode().rstrip("\n")
            if line.startswith("M|"):
                _, topic, payload, qos, retain, *properties = line.split("|", 11)
                self.full.put(properties)
                self.messages.put((topic, bytes.fromhex(payload), int(qos), retain == "1"))
            else:
                self.debug.put(line)

    def seen(self, *texts):
        """Waits for a line with one of these."""
        while True:
            try:
                line = self.debug.get(timeout=WAIT)
            except queue.Empty:
                raise AssertionError(f"mosquitto_sub did not say {' or '.join(texts)}") from None
            if any(text in line for text in texts):
                return line

    def receive(self, count):
        return [self.messages.get(timeout=WAIT) for _ in range(count)]

    def receive_to_end(self):
        """All up to the marker that the test publishes last."""
        got = []
        while True:
            message = self.messages.get(timeout=WAIT)
            if message[1] == END.encode():
                return got
            got.append(message)

    def kill(self):
        self.process.kill()
        self.process.wait(WAIT)

    def close(self):
        """SIGTERM makes it send a DISCONNECT; over version 5 that asks for the will."""
        self.process.terminate()
        self.process.wait(WAIT)

    def wait(self):
        """The end of one that was told to end by itself, with a plain DISCONNECT."""
        equal(self.process.wait(WAIT), 0, "exit code")


def control(command):
    host, port = os.environ["MQTT_CONTROL"].split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(command.encode() + b"\n")
        answer = connection.makefile().readline().strip()
    assert answer == "ok", f"{command}: {answer}"


def equal(got, want, what):
    assert got == want, f"{what}: got {str(got)[:300]}, want {str(want)[:300]}"


def lines(first, last):
    return "".join(f"{i}\n" for i in range(first, last)).encode()


def both_ways(version, base, qos):
    sub = Sub(version, [f"{base}/#"], "-q", str(qos))
    pub(version, "-t", f"{base}/text", "-q", str(qos), "-l", data=lines(0, 20))
    binary = bytes(range(256))
    pub(version, "-t", f"{base}/binary", "-q", str(qos), "-s", data=binary)
    pub(version, "-t", f"{base}/end", "-q", str(qos), "-m", END)
    want = [(f"{base}/text", f"{i}".encode(), qos, False) for i in range(20)] + [(f"{base}/binary", binary, qos, False)]
    equal(sub.receive_to_end(), want, "messages")
    sub.close()


def retained(version, base):
    a, b = f"{base}/a", f"{base}/b"
    pub(version, "-t", a, "-m", "first", "-q", "1", "-r")
    pub(version, "-t", a, "-m", "second", "-q", "1", "-r")
    pub(version, "-t", b, "-m", "other", "-q", "2", "-r")
    early = Sub(version, [f"{base}/+"], "-q", "1")
    equal(sorted(early.receive(2)), [(a, b"second", 1, True), (b, b"other", 1, True)], "wildcard")
    pub(version, "-t", b, "-m", "live", "-q", "1", "-r")
    equal(early.receive(1), [(b, b"live", 1, False)], "live")
    pub(version, "-t", a, "-n", "-q", "1", "-r")
    late = Sub(version, [f"{base}/#"], "-q", "1")
    pub(version, "-t", f"{base}/end", "-m", END, "-q", "1")
    equal(late.receive_to_end(), [(b, b"live", 1, True)], "after the clear")
    pub(version, "-t", b, "-n", "-q", "1", "-r")
    early.close()
    late.close()


def will(version, base):
    watcher = Sub(version, [f"{base}/#"], "-q", "1")
    for name, end, *more in (("polite", Sub.wait, "-E"), ("gone", Sub.kill)):
        end(Sub(version, [f"{base}-x"], "--will-topic", f"{base}/{name}", "--will-payload", name, "--will-qos", "1", *more))
    equal(watcher.receive(1), [(f"{base}/gone", b"gone", 1, False)], "will")
    watcher.close()


def takeover(version, base):
    old = Sub(version, [f"{base}/old"], "-q", "1", "-i", f"{base}-same")
    # It would connect again at once and take the session back, so it is stopped while the new one works.
    old.process.send_signal(signal.SIGSTOP)
    young = Sub(version, [f"{base}/new"], "-q", "1", "-i", f"{base}-same")
    pub(version, "-t", f"{base}/old", "-m", "for nobody", "-q", "1")
    pub(version, "-t", f"{base}/new", "-m", "still here", "-q", "1")
    equal(young.receive(1), [(f"{base}/new", b"still here", 1, False)], "the new connection")
    young.close()
    old.process.send_signal(signal.SIGCONT)
    return old


def taken_over(version, base):
    old = takeover(version, base)
    # Told why, it ends; else it tries again.
    old.seen("Received DISCONNECT", "sending CONNECT")
    old.kill()


def taken_over_142(version, base):
    old = takeover(version, base)
    old.seen("Received DISCONNECT (142)")
    old.kill()


def offline(version, base, command):
    keep = ["-i", f"{base}-s", "-q", "2", "-c"] + (["-x", "3600"] if version == 5 else [])
    Sub(version, [f"{base}/#"], *keep).close()
    for topic, qos in (("one", "1"), ("two", "2")):
        pub(version, "-t", f"{base}/{topic}", "-q", qos, "-l", data=lines(0, 50))
    control(command)
    for topic, qos in (("one", "1"), ("two", "2")):
        pub(version, "-t", f"{base}/{topic}", "-q", qos, "-m", "50")
    pub(version, "-t", f"{base}/end", "-q", "2", "-m", END)
    # It subscribes to something else, so that the messages come by the old subscription.
    session = Sub(version, [f"{base}-other"], *keep)
    got = session.receive_to_end()
    for topic, qos in (("one", 1), ("two", 2)):
        mine = [m for m in got if m[0] == f"{base}/{topic}"]
        equal(mine, [(f"{base}/{topic}", f"{i}".encode(), qos, False) for i in range(51)], topic)
    session.close()
    Sub(version, [f"{base}-other"], "-i", f"{base}-s").close()


def shared(version, base):
    members = [Sub(version, [f"$share/group/{base}/+", f"{base}-end"], "-q", "1") for _ in range(2)]
    pub(version, "-t", f"{base}/x", "-q", "1", "-l", data=lines(0, 40))
    shares = [[], []]
    deadline = time.monotonic() + WAIT
    while len(shares[0]) + len(shares[1]) < 40 and time.monotonic() < deadline:
        for share, member in zip(shares, members):
            with contextlib.suppress(queue.Empty):
                share.append(int(member.messages.get(timeout=0.01)[1]))
    pub(version, "-t", f"{base}-end", "-q", "1", "-m", END)
    for share, member in zip(shares, members):
        share.extend(int(m[1]) for m in member.receive_to_end())
    equal(sorted(shares[0] + shares[1]), list(range(40)), "both shares together")
    assert all(shares), f"one member got all: {shares}"
    for member in members:
        member.close()


def large(version, base):
    sub = Sub(version, [f"{base}/#"], "-q", "2")
    payload = os.urandom(1 << 20)
    with tempfile.NamedTemporaryFile() as file:
        file.write(payload)
        file.flush()
        for qos in (0, 1, 2):
            pub(version, "-t", f"{base}/x", "-q", str(qos), "-f", file.name)
            (message,) = sub.receive(1)
            assert message[1:3] == (payload, qos), f"1 MiB at QoS {qos} came back as {len(message[1])} bytes at QoS {message[2]}"
    sub.close()


def properties(version, base):
    sub = Sub(version, [f"{base}/+"], "-q", "1", "-D", "subscribe", "subscription-identifier", "7")
    sent = [
        ("payload-format-indicator", "1"),
        ("message-expiry-interval", "300"),
        ("content-type", "text/plain"),
        ("response-topic", f"{base}/answers"),
        ("correlation-data", "number 1"),
    ]
    options = [word for pair in sent for word in ("-D", "publish", *pair)]
    for name, value in (("b", "1"), ("a", "2"), ("b", "1"), ("ключ", "значение")):
        options += ["-D", "publish", "user-property", name, value]
    pub(version, "-t", f"{base}/x", "-q", "1", "-m", "text", *options)
    sub.receive(1)
    form, expiry, content, response, correlation, identifier, user = sub.full.get(timeout=WAIT)
    assert 290 <= int(expiry) <= 300, f"expiry {expiry}"
    want = ("1", "text/plain", f"{base}/answers", "number 1", "7", "b:1 a:2 b:1 ключ:значение")
    equal((form, content, response, correlation, identifier, user.strip()), want, "properties")
    sub.close()


def wrong_password(version, base):
    done = pub(version, "-t", base, "-m", "x", "-q", "1", login=arguments(version, "guest", "wrong"), check=False)
    assert done.returncode != 0, "was let in"
    want = TEXTS[os.environ["MQTT_REFUSED_V5" if version == 5 else "MQTT_REFUSED_V3"]]
    said = (done.stderr + done.stdout).decode()
    assert want in said, f"mosquitto_pub said '{said.strip()}', not '{want}'"


def anonymous(version, base):
    login = arguments(version, None, None)
    sub = Sub(version, [f"{base}/x"], login=login)
    pub(version, "-t", f"{base}/x", "-m", "hello", login=login)
    equal(sub.receive(1), [(f"{base}/x", b"hello", 0, False)], "message")
    sub.close()


SCENARIOS = {
    "qos0": lambda v, b: both_ways(v, b, 0),
    "qos1": lambda v, b: both_ways(v, b, 1),
    "qos2": lambda v, b: both_ways(v, b, 2),
    "retained": retained,
    "will": will,
    "takeover": taken_over,
    "takeover-142": taken_over_142,
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
    failed = 0
    for version, tag in ((4, "v311"), (5, "v5")):
        for name, scenario in SCENARIOS.items():
            if version == 4 and name in ONLY_V5:
                continue
            try:
                scenario(version, f"mosq-{tag}-{name}")
                print(f"ok - {tag}/{name}", flush=True)
            except Exception as error:  # every failure is a result, and the next scenario runs
                failed += 1
                reason = (str(error) or type(error).__name__).replace("\n", " ")
                print(f"not ok - {tag}/{name}: {reason}", flush=True)
                traceback.print_exc()
            while Sub.live:
                Sub.live.pop().kill()
    sys.exit(1 if failed else 0)


main()
