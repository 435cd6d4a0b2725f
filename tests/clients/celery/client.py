"""Celery and its library kombu against a broker: a line of TAP for each scenario. AMQP_PORT says where; AMQP_CONTROL restarts the broker.

kombu does what every client does (messaging.py); Celery's workers are processes of their own (workers.py), started first, since
they take a while to come up.
"""

import sys
import time
import traceback

import messaging
import workers


def main():
    failed = 0
    chosen = sys.argv[1:]
    with workers.started() as scenarios:
        for scenario, run in messaging.SCENARIOS + scenarios + messaging.LAST:
            if chosen and scenario not in chosen:
                continue
            start = time.monotonic()
            try:
                run()
                print(f"ok - {scenario}\n# {time.monotonic() - start:.1f} s", flush=True)
            except BaseException as error:  # every kind, so that each scenario has its line
                failed += 1
                print(f"not ok - {scenario}: {type(error).__name__}: {error}".replace("\n", " "), flush=True)
                traceback.print_exc()
    sys.exit(1 if failed else 0)


main()
