"""Celery: worker processes, and what is asked of them."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

NOTES = Path(tempfile.mkdtemp(prefix="celery-notes-"))
os.environ["CLIENT_NOTES"] = str(NOTES)

from celery import chain, group  # noqa: E402 (the tasks read their environment)
from celery.exceptions import TaskRevokedError  # noqa: E402

import tasks  # noqa: E402
from messaging import WAIT, connect, control  # noqa: E402
from tasks import LATE, MAIN, PRIORITY, QUORUM, add, app, flaky, now, slow  # noqa: E402

START = 40
# Celery waits for results a second at a time, and loses one that comes at the very end of such a second, whatever the broker is
# (seen with RabbitMQ 3.10 as often as with Carrick). So nothing here is due a whole number of seconds after somebody waits for it.


class Worker:
    """A `celery worker` process. Its children are in our group of processes, so that they end with us."""

    def __init__(self, name, queues, pool, **environment):
        self.name = f"{name}@client"
        self.log = Path(f"worker-{name}.log")
        command = [sys.executable, "-B", "-u", "-m", "celery", "-A", "tasks", "worker", "-n", self.name, "-Q", ",".join(queues), "-E"]
        command += ["--pool", pool, "--concurrency", "2" if pool == "prefork" else "1", "-l", "INFO"]
        here = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.abspath(__file__)), **environment}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=here)

    def wait_until_ready(self, times=1):
        until(lambda: self.log.read_text(errors="replace").count(f"{self.name} ready.") >= times, START, f"{self.name} is not ready")

    def children(self):
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    def kill(self):
        pids = [*self.children(), self.process.pid]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(WAIT)

    def stop(self):
        """SIGTERM: it finishes what it has in hand and ends by itself."""
        self.process.terminate()
        try:
            return self.process.wait(WAIT)
        except subprocess.TimeoutExpired:
            self.kill()
            return None


def until(condition, seconds, complaint):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, complaint
        time.sleep(0.05)


def notes(file):
    path = NOTES / file
    return path.read_text().splitlines() if path.exists() else []


def waiting(queue):
    with connect() as connection:
        return connection.default_channel.queue_declare(queue, passive=True).message_count


class Scenarios:
    def __init__(self):
        self.main = Worker("main", [MAIN], "prefork")
        self.one = Worker("one", [LATE, PRIORITY], "solo")
        self.two = Worker("two", [LATE], "solo")
        self.quorum = Worker("quorum", [QUORUM], "solo", CLIENT_QUORUM="1")
        self.all = [self.main, self.one, self.two, self.quorum]

    def list(self):
        names = ["task-result", "chain", "retry", "eta", "eta-many", "control", "events", "priority", "acks-late", "native-delay"]
        names += ["worker-survives-restart", "warm-shutdown"]
        return [(name, getattr(self, name.replace("-", "_"))) for name in names]

    def task_result(self):
        for worker in self.all:
            worker.wait_until_ready()
        results = [add.delay(n, n) for n in range(50)]
        assert [result.get(timeout=WAIT) for result in results] == [2 * n for n in range(50)]
        broken = add.delay(1, "one")
        try:
            broken.get(timeout=WAIT)
            raise AssertionError("it should have failed")
        except TypeError:
            assert broken.state == "FAILURE", broken.state

    def chain(self):
        assert chain(add.s(1, 2), add.s(3), add.s(4))().get(timeout=WAIT) == 10
        assert group(add.s(n, 1) for n in range(5))().get(timeout=WAIT) == [1, 2, 3, 4, 5]

    def retry(self):
        result = flaky.delay()
        assert result.get(timeout=WAIT) == 2
        first, second, third = map(float, notes(f"flaky-{result.id}"))
        assert 1.1 < second - first < 10 and 1.1 < third - second < 10, (first, second, third)

    def eta(self):
        start = time.time()
        took = now.apply_async(countdown=2.5).get(timeout=WAIT) - start
        assert 2.4 < took < 6.5, took

    def eta_many(self):
        """A worker that takes one task at a time holds many that are not due: it widens its prefetch for them, for the channel as a whole."""
        start = time.time()
        later = [now.apply_async(countdown=5.5, queue=LATE) for _ in range(8)]
        at_once = now.apply_async(queue=LATE).get(timeout=WAIT) - start
        assert at_once < 4.5, at_once
        due = [result.get(timeout=WAIT) - start for result in later]
        assert all(5.4 < took < 12.5 for took in due), due

    def control(self):
        """Remote control: commands by a fanout exchange, answers by a queue of ours."""
        names = {worker.name for worker in (self.main, self.one, self.two)}
        answers = {name for answer in app.control.ping(timeout=5, limit=4) for name in answer}
        assert names <= answers, answers
        queues = app.control.inspect([self.one.name], timeout=5, limit=1).active_queues()
        assert {queue["name"] for queue in queues[self.one.name]} == {LATE, PRIORITY}, queues
        # A new queue for a running worker.
        app.control.add_consumer("celery.added", destination=[self.main.name], reply=True, timeout=5, limit=1)
        assert add.apply_async((2, 3), queue="celery.added").get(timeout=WAIT) == 5
        app.control.cancel_consumer("celery.added", destination=[self.main.name], reply=True, timeout=5, limit=1)
        task = now.apply_async(countdown=2.5)
        task.revoke()
        try:
            task.get(timeout=WAIT)
            raise AssertionError("it ran")
        except TaskRevokedError:
            pass

    def events(self):
        """What workers tell about tasks, on a topic exchange."""
        seen, ready = [], threading.Event()

        def listen():
            with app.connection_for_read() as connection:
                receiver = app.events.Receiver(connection, handlers={"*": lambda event: seen.append((event["type"], event.get("uuid")))})
                # It drains a connection of its own.
                with receiver.consumer_context() as (own, _, _):
                    ready.set()
                    end = time.monotonic() + WAIT
                    while not any(kind == "task-succeeded" for kind, _ in seen) and time.monotonic() < end:
                        with contextlib.suppress(TimeoutError):
                            own.drain_events(timeout=0.5)

        listener = threading.Thread(target=listen)
        listener.start()
        assert ready.wait(WAIT)
        task = add.delay(1, 1)
        assert task.get(timeout=WAIT) == 2
        listener.join(2 * WAIT)
        of_task = [kind for kind, uuid in seen if uuid == task.id]
        assert of_task == ["task-received", "task-started", "task-succeeded"], seen

    def priority(self):
        """One task in hand and the rest in the broker, which hands out the important ones first."""
        hold = slow.apply_async(("priority", "hold", 1.5), queue=PRIORITY)
        until(lambda: notes("priority"), WAIT, "nothing began")
        order = [("low", 1)] * 3 + [("high", 9)] * 3
        results = [slow.apply_async(("priority", what, 0), queue=PRIORITY, priority=level) for what, level in order]
        assert waiting(PRIORITY) == 6, waiting(PRIORITY)
        for result in [hold, *results]:
            result.get(timeout=WAIT)
        assert [line.split()[0] for line in notes("priority")] == ["hold"] + ["high"] * 3 + ["low"] * 3, notes("priority")

    def acks_late(self):
        """A worker is killed in the middle of its task, and another one does it."""
        task = slow.apply_async(("late", "task", 3.5), queue=LATE)
        until(lambda: notes("late"), WAIT, "nothing began")
        _, pid, redelivered = notes("late")[0].split()
        victim, other = (self.one, self.two) if int(pid) == self.one.process.pid else (self.two, self.one)
        assert redelivered == "False" and int(pid) == victim.process.pid, notes("late")
        victim.kill()
        assert task.get(timeout=WAIT) == other.process.pid
        assert [line.split() for line in notes("late")[1:]] == [["task", str(other.process.pid), "True"]], notes("late")

    def native_delay(self):
        """With quorum queues Celery leaves delays to the broker: 28 queues with a time to live, one for each bit of the delay."""
        quorum = tasks.make(quorum=True)
        start = time.time()
        task = quorum.send_task("tasks.now", countdown=3)
        # 3 s are two bits: 2 s in the queue of bit 1, then 1 s in that of bit 0.
        assert waiting("celery_delayed_1") == 1
        time.sleep(0.5)
        took = task.get(timeout=WAIT) - start
        assert 2.8 < took < 10, took
        results = [quorum.send_task("tasks.add", (n, n)) for n in range(20)]
        assert [result.get(timeout=WAIT) for result in results] == [2 * n for n in range(20)]
        with connect() as connection:
            for bit in range(28):
                connection.default_channel.queue_delete(f"celery_delayed_{bit}")
                connection.default_channel.exchange_delete(f"celery_delayed_{bit}")

    def worker_survives_restart(self):
        """The broker ends and comes back while a worker has tasks in hand and more are waiting: each is done, by the same worker."""
        many = [slow.apply_async(("survive", n, 0.3), queue=MAIN) for n in range(20)]
        until(lambda: len(notes("survive")) >= 3, WAIT, "nothing began")
        control("restart")
        fresh = tasks.make()
        until(lambda: {line.split()[0] for line in notes("survive")} == {str(n) for n in range(20)}, START, "not all were done")
        assert fresh.send_task("tasks.add", (20, 3)).get(timeout=WAIT) == 23
        assert self.main.process.poll() is None
        self.main.wait_until_ready()
        assert many

    def warm_shutdown(self):
        """SIGTERM: the task in hand is finished and acknowledged, those behind it stay in the queue."""
        queue = MAIN
        for n in range(6):
            tasks.make().send_task("tasks.slow", ("warm", n, 1), queue=queue)
        until(lambda: len(notes("warm")) >= 2, WAIT, "nothing began")
        assert self.main.stop() == 0
        until(lambda: len(notes("warm")) + waiting(queue) == 6, WAIT, f"{notes('warm')} are done and {waiting(queue)} wait")
        for worker in (self.one, self.two, self.quorum):
            assert worker.process.poll() is not None or worker.stop() == 0, worker.name


def clean_up():
    with connect() as connection:
        channel = connection.default_channel
        for what in (MAIN, PRIORITY, LATE, QUORUM, "celery.added"):
            channel.queue_delete(what)
            channel.exchange_delete(what)


@contextlib.contextmanager
def started():
    scenarios = Scenarios()
    try:
        yield scenarios.list()
        clean_up()
    finally:
        for worker in scenarios.all:
            if worker.process.poll() is None:
                worker.kill()
        shutil.rmtree(NOTES, ignore_errors=True)
