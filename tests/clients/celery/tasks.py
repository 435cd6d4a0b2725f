"""The tasks and the settings that the client and its workers share. CLIENT_QUORUM makes it an application of quorum queues."""

import os
import time

from celery import Celery, shared_task
from kombu import Exchange, Queue

HOST = os.environ.get("AMQP_HOST", "127.0.0.1")
BROKER = f"amqp://guest:guest@{HOST}:{os.environ['AMQP_PORT']}//"
# Where tasks leave word of what they did.
NOTES = os.environ.get("CLIENT_NOTES", "")

MAIN, PRIORITY, LATE, QUORUM = "celery.main", "celery.priority", "celery.late", "celery.quorum"


def make(quorum=False):
    app = Celery("tasks", broker=BROKER, backend="rpc://", set_as_current=False)
    main = [Queue(MAIN, Exchange(MAIN)), Queue(PRIORITY, Exchange(PRIORITY), PRIORITY, max_priority=10), Queue(LATE, Exchange(LATE), LATE)]
    # One quorum queue makes Celery leave delays to the broker, for the whole application.
    replicated = [Queue(QUORUM, Exchange(QUORUM, "topic"), QUORUM, queue_arguments={"x-queue-type": "quorum"})]
    app.conf.update(
        task_queues=replicated if quorum else main,
        task_default_queue=QUORUM if quorum else MAIN,
        task_default_routing_key=QUORUM if quorum else MAIN,
        broker_transport_options={"confirm_publish": True},
        broker_connection_timeout=10,
        broker_heartbeat=20,
        broker_connection_retry_on_startup=True,
        worker_send_task_events=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        result_expires=60,
    )
    return app


app = make(bool(os.environ.get("CLIENT_QUORUM")))
app.set_default()


class Hiccup(Exception):
    pass


def note(file, line):
    with open(os.path.join(NOTES, file), "a", encoding="utf-8") as notes:
        notes.write(f"{line}\n")


@shared_task
def add(a, b):
    return a + b


@shared_task
def now(_=None):
    return time.time()


@shared_task(bind=True, autoretry_for=(Hiccup,), retry_kwargs={"max_retries": 3, "countdown": 1.25})
def flaky(self):
    note(f"flaky-{self.request.id}", time.time())
    if self.request.retries < 2:
        raise Hiccup
    return self.request.retries


@shared_task(bind=True, acks_late=True)
def slow(self, file, what, seconds):
    note(file, f"{what} {os.getpid()} {self.request.delivery_info['redelivered']}")
    time.sleep(seconds)
    return os.getpid()
