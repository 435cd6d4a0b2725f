"""amqp-tools, the command line programs of rabbitmq-c, against a broker: a line of TAP for each scenario.

They have no confirms, no returns, no arguments of queues and no nack, and show no properties of a message.
"""

import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
import uuid

HOST = os.environ["AMQP_HOST"]
PORT = os.environ["AMQP_PORT"]
USER = os.environ["AMQP_USER"]
PASSWORD = os.environ["AMQP_PASSWORD"]
WAIT = 20


def server(user=USER, password=PASSWORD):
    return ["-s", HOST, "--port", PORT, "--username", user, "--password", password]


def tool(name, *options, data=b"", code=0, login=None):
    """Runs one to its end, which must be a clean one unless another exit code is asked for."""
    command = [f"amqp-{name}", *(login or server()), *options]
    done = subprocess.run(command, input=data, capture_output=True, timeout=WAIT, check=False)
    said = done.stderr.decode()
    assert done.returncode == code and bool(said) == (code == 1), f"amqp-{name} {' '.join(options)[:80]}: exit {done.returncode}, {said}"
    return done


def refused(text, name, *options, login=None):
    said = tool(name, *options, code=1, login=login).stderr.decode()
    assert text in said, f"amqp-{name} said '{said.strip()}', not '{text}'"


def unique(what):
    return f"amqp-tools.{what}.{uuid.uuid4().hex[:8]}"


def declare(what, *options):
    name = unique(what)
    assert tool("declare-queue", "-q", name, *options).stdout.decode().strip() == name
    return name


def delete(name):
    """How many messages were in it."""
    return int(tool("delete-queue", "-q", name).stdout)


def send_lines(name, first, last, *options):
    tool("publish", "-r", name, "-l", *options, data="".join(f"{n}\n" for n in range(first, last)).encode())


def take(name):
    """Basic.get; None from an empty queue."""
    command = ["amqp-get", *server(), "-q", name]
    done = subprocess.run(command, capture_output=True, timeout=WAIT, check=False)
    assert done.returncode in (0, 2) and not done.stderr, f"amqp-get: exit {done.returncode}, {done.stderr.decode()}"
    return done.stdout if done.returncode == 0 else None


class Consumer:
    """A running amqp-consume, whose command gets each message on its standard input; lines of output wait in a queue."""

    live = []

    def __init__(self, *options, command=("cat",)):
        everything = ["amqp-consume", *server(), *options, "--", *command]
        self.process = subprocess.Popen(everything, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        self.lines, self.said = queue.Queue(), queue.Queue()
        for stream, into in ((self.process.stdout, self.lines), (self.process.stderr, self.said)):
            threading.Thread(target=self.read, args=(stream, into), daemon=True).start()
        Consumer.live.append(self)

    @staticmethod
    def read(stream, into):
        for line in stream:
            into.put(line.decode().rstrip("\n"))

    def receive(self, count):
        got = []
        while len(got) < count:
            try:
                got.append(self.lines.get(timeout=WAIT))
            except queue.Empty:
                raise AssertionError(f"only {len(got)} of {count} lines came") from None
        return got

    def kill(self):
        """With kill -9: no close of channel or connection."""
        os.killpg(self.process.pid, 9)
        self.process.wait(WAIT)

    def finish(self):
        assert self.process.wait(WAIT) == 0, f"amqp-consume ended with {self.process.returncode}"


def numbers(first, last):
    return [str(n) for n in range(first, last)]


def equal(got, want, what):
    assert got == want, f"{what}: got {str(got)[:300]}, want {str(want)[:300]}"


def until(condition, what):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def consume_ack():
    name = declare("consume", "-d")
    send_lines(name, 0, 200)
    consumer = Consumer("-q", name, "-p", "10", "-c", "200")
    equal(consumer.receive(200), numbers(0, 200), "messages")
    consumer.finish()
    equal(delete(name), 0, "messages left")


def requeue():
    """What a killed consumer had in hand comes again, in its place."""
    name = declare("requeue")
    send_lines(name, 0, 20)
    # The first message's command never ends, so that nothing is acknowledged.
    stuck = Consumer("-q", name, "-p", "5", command=("sh", "-c", "cat; exec sleep 100"))
    equal(stuck.receive(1), ["0"], "the first")
    stuck.kill()
    again = Consumer("-q", name, "-c", "20")
    equal(again.receive(20), numbers(0, 20), "messages")
    again.finish()
    equal(delete(name), 0, "messages left")


def server_named():
    consumer = Consumer("-x", "-e", "amq.topic", "-r", "a.*")
    said = consumer.said.get(timeout=WAIT)
    found = re.search(r"amq\.gen-\S+", said)
    assert found, f"amqp-consume said '{said}'"
    name = found.group()
    # It says so before it has bound the queue and begun to consume.
    deadline = time.monotonic() + WAIT
    while consumer.lines.empty() and time.monotonic() < deadline:
        tool("publish", "-e", "amq.topic", "-r", "a.b.c", "-b", "not\n")
        tool("publish", "-e", "amq.topic", "-r", "a.b", "-b", "routed\n")
        time.sleep(0.1)
    equal(set(consumer.receive(1)), {"routed"}, "message")
    refused(f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}'", "get", "-q", name)
    consumer.kill()

    def gone():
        done = subprocess.run(["amqp-get", *server(), "-q", name], capture_output=True, timeout=WAIT, check=False)
        return f"NOT_FOUND - no queue '{name}'" in done.stderr.decode()

    until(gone, "it outlived its connection")


def large():
    name = declare("large")
    for size in (0, 131_064, 131_065, 1 << 20, 5_000_000):
        body = (b"0123456789abcdef" * (size // 16 + 1))[:size]
        tool("publish", "-r", name, data=body)
        back = take(name)
        assert back == body, f"{size} bytes came back as {'nothing' if back is None else len(back)}"
    equal(take(name), None, "what is left")
    delete(name)


def competing():
    """Two consumers share a queue, each message once."""
    name = declare("competing")
    both = [Consumer("-q", name, "-p", "1") for _ in range(2)]
    send_lines(name, 0, 100)
    until(lambda: sum(one.lines.qsize() for one in both) >= 100, "not all came")
    shares = [one.receive(one.lines.qsize()) for one in both]
    equal(sorted(shares[0] + shares[1], key=int), numbers(0, 100), "both shares together")
    assert all(shares), "one got all"
    for one in both:
        one.kill()
    delete(name)


def delete_conditions():
    name = declare("conditions")
    tool("publish", "-r", name, "-b", "x")
    refused("PRECONDITION_FAILED", "delete-queue", "-q", name, "--if-empty")
    take(name)
    consumer = Consumer("-q", name)
    tool("publish", "-r", name, "-b", "line\n")
    consumer.receive(1)
    refused("PRECONDITION_FAILED", "delete-queue", "-q", name, "--if-unused")
    consumer.kill()
    delete(name)


def heartbeat():
    """Idle for several times the heartbeat, both ways."""
    name = declare("heartbeat")
    consumer = Consumer("-q", name, "--heartbeat", "1")
    time.sleep(4)
    tool("publish", "-r", name, "-b", "still here\n")
    equal(consumer.receive(1), ["still here"], "message")
    consumer.kill()
    delete(name)


def wrong_password():
    refused("ACCESS_REFUSED", "declare-queue", "-q", unique("never"), login=server(password="wrong"))
    refused("vhost nope not found", "declare-queue", "-q", unique("never"), "--vhost", "nope")


def clean_close():
    """Every program closes channel and connection and says nothing, the URL form of the address included."""
    name = unique("close")
    url = f"amqp://{USER}:{PASSWORD}@{HOST}:{PORT}/%2f"
    for _ in range(5):
        tool("declare-queue", "-q", name, login=["-u", url])
    equal(int(tool("delete-queue", "-q", name, login=["-u", url]).stdout), 0, "messages")


def dirty_close():
    name = declare("dirty")
    # A publisher is killed while it waits for its next line.
    publisher = subprocess.Popen(["amqp-publish", *server(), "-r", name, "-l"], stdin=subprocess.PIPE)
    publisher.stdin.write(b"whole\nhal")
    publisher.stdin.flush()
    got = []

    def taken():
        got.append(take(name))
        return got[-1] is not None

    until(taken, "the whole line did not come")
    publisher.kill()
    publisher.wait(WAIT)
    equal(got[-1], b"whole\n", "message")
    with socket.create_connection((HOST, int(PORT)), timeout=WAIT) as cut:
        cut.sendall(b"AMQP\x00\x00\x09\x01" + b"\x01\x00\x00")
    with socket.create_connection((HOST, int(PORT)), timeout=WAIT) as wrong:
        wrong.sendall(b"GET / HTTP/1.1\r\n")
        equal(wrong.recv(8), b"AMQP\x00\x00\x09\x01", "header")
    equal(take(name), None, "what is left")
    delete(name)


def restart():
    """Persistent messages are there after a new start."""
    name = declare("restart", "-d")
    send_lines(name, 0, 50, "-p")
    # No confirms here: a broker that is killed must have had a moment to write.
    time.sleep(1)
    host, port = os.environ["AMQP_CONTROL"].rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(b"restart\n")
        answer = line.makefile().readline().strip()
    equal(answer, "ok", "restart")
    consumer = Consumer("-q", name, "-A", "-c", "50")
    equal(consumer.receive(50), numbers(0, 50), "messages")
    consumer.finish()
    equal(delete(name), 0, "messages left")


SCENARIOS = {
    "consume-ack": consume_ack,
    "requeue": requeue,
    "server-named": server_named,
    "large": large,
    "competing": competing,
    "delete-conditions": delete_conditions,
    "heartbeat": heartbeat,
    "wrong-password": wrong_password,
    "clean-close": clean_close,
    "dirty-close": dirty_close,
    "restart": restart,
}


def main():
    failed = 0
    chosen = sys.argv[1:]
    for name, scenario in SCENARIOS.items():
        if chosen and name not in chosen:
            continue
        try:
            scenario()
            print(f"ok - {name}", flush=True)
        except Exception as error:  # every failure is a result, and the next scenario runs
            failed += 1
            reason = (str(error) or type(error).__name__).replace("\n", " ")
            print(f"not ok - {name}: {reason}", flush=True)
            traceback.print_exc()
        while Consumer.live:
            one = Consumer.live.pop()
            if one.process.poll() is None:
                one.kill()
    sys.exit(1 if failed else 0)


main()
