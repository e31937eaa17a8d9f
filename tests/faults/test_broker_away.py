"""RabbitMQ is away while tickets are booked: what was accepted then ends soon after its return.

It is stopped in order, or killed at a moment when the worker cannot reach booking either, so that
messages wait for another try and are on their way back from there.
"""

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.concurrency import books
from tests.faults import accounts
from tests.faults.workers import worker_environment
from tests.integration import servers
from tests.integration.booking_task import (
    BookingTask,
    Client,
    booking_tasks,
    migrate_postgres,
    orders,
)
from tests.integration.payment.broker import Broker
from tests.integration.payment.worker_process import WorkerProcess, eventually
from ticketra import messages

OUTAGE_S = float(os.environ.get("FAULT_OUTAGE_S", "6"))
BOOKINGS_PER_S = 100
SETTLE_LIMIT_S = 30.0
POLL_S = 0.1
EVENT = "broker-away"


class Buyers:
    """Book at a steady pace, in a thread of their own, until they are told to stop."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._book)
        self.accepted = 0

    def __enter__(self) -> "Buyers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _book(self) -> None:
        began = time.monotonic()
        while not self._stop.is_set():
            count = 1 + self.accepted % 7
            self._client.create(EVENT, count, user=f"user-{self.accepted}")
            self.accepted += 1
            next_at = began + self.accepted / BOOKINGS_PER_S
            time.sleep(max(0.0, next_at - time.monotonic()))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_bookings_that_are_accepted_without_a_broker_end_soon_after_its_return(
    tmp_path: Path, how: str
) -> None:
    with (
        servers.postgres() as postgres,
        servers.redis_server() as redis,
        servers.rabbitmq() as rabbitmq,
    ):
        migrate_postgres(postgres)
        for user in ("buyers", "worker"):
            (tmp_path / user).mkdir()
        with (
            booking_tasks(postgres, redis, rabbitmq, tmp_path / "buyers") as [task],
            booking_tasks(postgres, redis, rabbitmq, tmp_path / "worker") as [task_of_worker],
            task.channel() as channel,
            orders(postgres) as connection,
        ):
            client = Client(channel)
            client.put_sale(EVENT, 1_000_000)
            worker = WorkerProcess(worker_environment(task_of_worker, tmp_path), tmp_path)
            try:
                worker.start()
                with Buyers(client) as buyers:
                    while buyers.accepted < BOOKINGS_PER_S:  # under load before it goes, too
                        time.sleep(POLL_S)
                    if how == "killed":
                        _kill(rabbitmq, task_of_worker)
                    else:
                        rabbitmq.stop()
                    before = buyers.accepted
                    time.sleep(OUTAGE_S)
                    during = buyers.accepted - before
                    rabbitmq.start()
                    if how == "killed":
                        task_of_worker.start()
                    back_at = time.monotonic()
                    accepted = buyers.accepted
                while accounts.unfinished(connection, [EVENT]):
                    assert time.monotonic() < back_at + SETTLE_LIMIT_S, worker.log[-3000:]
                    time.sleep(POLL_S)
                sys.stdout.write(
                    f"{during} bookings accepted in {OUTAGE_S:.0f} s with RabbitMQ {how};"
                    f" all {accepted} ended {time.monotonic() - back_at:.1f} s after its return\n"
                )
                assert during > OUTAGE_S * BOOKINGS_PER_S / 2, "tickets were sold all the time"
                books.check(books.read(connection, [EVENT]))
                met = accounts.check(connection, [EVENT])
                assert sum(met.values()) == buyers.accepted
                assert met.keys() == {"CONFIRMED paid", "CANCELLED declined"}
                worker.tell_to_stop()
                assert worker.wait() == 0
            finally:
                worker.kill()


def _kill(rabbitmq: servers.Server, task_of_worker: BookingTask) -> None:
    """Kill the broker while it moves messages that failed because booking is away."""
    task_of_worker.kill()
    second_wait = messages.retry_queue(messages.CHARGE_QUEUE, messages.RETRY_DELAYS_S[1])
    broker = Broker(rabbitmq)
    eventually(lambda: broker.ready(second_wait), "messages that came back to fail again")
    rabbitmq.kill()
