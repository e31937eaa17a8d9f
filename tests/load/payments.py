"""`make bench-payments`: payments settled a second, beside bare consume-and-ack, in one run.

In each round the booking task takes bookings while no payment worker runs, so that their messages
wait. Then the worker settles them, with the mock bank, PostgreSQL, RabbitMQ and the booking task on
the same cores. Then the same number of the same messages is only consumed and acknowledged, with
the same library, connection and prefetch, and once more one at a time, as the simplest consumer
does it. The times of payments are PostgreSQL's.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pika
import psutil
import psycopg
import uvloop

from payment.worker import CHARGES_IN_FLIGHT
from tests.faults.workers import worker_environment
from tests.integration import servers
from tests.integration.booking_task import (
    CREDENTIALS,
    BookingTask,
    Client,
    booking_tasks,
    migrate_postgres,
    orders,
)
from tests.integration.payment.worker_process import WorkerProcess
from tests.integration.servers import Server
from tests.load import whole_stack
from tests.load.client import Plan
from tests.load.rig import cpu_seconds, run_client
from ticketra import messages
from ticketra.amqp import AmqpConnection

IN_FLIGHT = 256
POLL_S = 0.1
SETTLED_POLL_S = 0.5  # it looks at all payments
SETTLE_LIMIT_S = 300.0
BARE_QUEUE = "bench.bare"

FIND_SETTLED = """
SELECT count(*) FILTER (WHERE state = 'succeeded'),
       extract(epoch FROM max(payments.updated_at) - min(attempts.started_at))::float
  FROM payment.payments JOIN payment.attempts USING (booking_id)
"""


class Round(NamedTuple):
    """What one round came to; rates are messages a second."""

    settled: float
    bare: float
    one_by_one: float
    worker_us: float
    booking_us: float
    """CPU of the worker and of the booking task for each payment, in µs"""


class Rig:
    """The servers, and how to use them for a round."""

    def __init__(
        self, postgres: Server, redis: Server, rabbitmq: Server, directory: Path, seconds: float
    ) -> None:
        self._postgres, self._redis, self._rabbitmq = postgres, redis, rabbitmq
        self._directory = directory
        self._seconds = seconds
        self._rounds = 0

    def round(self) -> Round:
        """Measure once; leaves empty tables and queues."""
        self._rounds += 1
        logs = Path(tempfile.mkdtemp(dir=self._directory))
        with booking_tasks(self._postgres, self._redis, self._rabbitmq, logs) as tasks:
            count = self._book(tasks[0])
            body = self._body()
            settled, worker_us, booking_us = self._settle(tasks[0], logs, count)
        bare = self._bare(body, count, CHARGES_IN_FLIGHT)
        one_by_one = self._bare(body, count // 4, 1)
        with orders(self._postgres) as connection:
            connection.execute(
                "TRUNCATE payment.payments, payment.attempts, payment.inbox, payment.outbox,"
                " payment.mock_bank_charges, outbox, bookings, tickets"
            )
        return Round(settled, bare, one_by_one, worker_us, booking_us)

    def _book(self, task: BookingTask) -> int:
        """Have tickets booked, and return how many messages wait then."""
        event_id = f"bench-{self._rounds}"
        with task.channel() as channel:
            Client(channel).put_sale(event_id, 1_000_000)
        plan = Plan(
            [task.address], CREDENTIALS["gateway"], [event_id], IN_FLIGHT, self._seconds, event_id
        )
        run_client(plan)
        with orders(self._postgres) as connection:
            while _one(connection, "SELECT count(*) FROM outbox WHERE published_at IS NULL"):
                time.sleep(POLL_S)
            return int(_one(connection, "SELECT count(*) FROM bookings"))

    def _body(self) -> bytes:
        """Return the body of a message that waits; it goes back with the connection."""
        with pika.BlockingConnection(_parameters(self._rabbitmq)) as connection:
            body: bytes = connection.channel().basic_get(messages.CHARGE_QUEUE)[2]
            return body

    def _settle(self, task: BookingTask, logs: Path, count: int) -> tuple[float, float, float]:
        """Have a worker settle all; return payments a second, and the CPU of both sides in µs."""
        assert task.process is not None
        worker = WorkerProcess(worker_environment(task, logs), logs)
        worker.start()
        assert worker.process is not None
        processes = [psutil.Process(worker.process.pid), psutil.Process(task.process.pid)]
        try:
            before = [cpu_seconds(process) for process in processes]
            seconds = self._settled(worker, count)
            cpu_us = [
                (cpu_seconds(process) - start) / count * 1e6
                for process, start in zip(processes, before, strict=True)
            ]
            return count / seconds, cpu_us[0], cpu_us[1]
        finally:
            worker.tell_to_stop()
            worker.wait()

    def _settled(self, worker: WorkerProcess, count: int) -> float:
        """Wait until all payments have succeeded, and return how long that took, in seconds."""
        deadline = time.monotonic() + SETTLE_LIMIT_S
        with orders(self._postgres) as connection:
            while True:
                row = connection.execute(FIND_SETTLED).fetchone()
                assert row is not None
                succeeded, seconds = row
                if succeeded == count:
                    return float(seconds)
                if time.monotonic() > deadline or not worker.is_running:
                    raise RuntimeError(worker.log[-3000:])
                time.sleep(SETTLED_POLL_S)

    def _bare(self, body: bytes, count: int, prefetch: int) -> float:
        with pika.BlockingConnection(_parameters(self._rabbitmq)) as connection:
            channel = connection.channel()
            channel.queue_declare(BARE_QUEUE, durable=True)
            properties = pika.BasicProperties(
                content_type="application/json",
                delivery_mode=messages.PERSISTENT,
                message_id="0" * 36,
                type=messages.BOOKING_CREATED,
                headers={f"cloudEvents:{n}": "0" * 24 for n in range(6)},
            )
            for _ in range(count):
                channel.basic_publish("", BARE_QUEUE, body, properties)
        seconds = uvloop.run(_consume_bare(self._rabbitmq, count, prefetch))
        return count / seconds


async def _consume_bare(rabbitmq: Server, count: int, prefetch: int) -> float:
    """Consume and acknowledge, one by one, and return how long it took, in seconds."""
    connection = AmqpConnection(rabbitmq.url, rabbitmq.username, rabbitmq.password, name="bare")
    await connection.open()
    channel = await connection.channel()
    done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    seen, first = 0, 0.0

    def on_message(channel: Any, method: Any, _: Any, __: bytes) -> None:
        nonlocal seen, first
        first = first or time.perf_counter()
        seen += 1
        channel.basic_ack(method.delivery_tag)
        if seen == count:
            done.set_result(time.perf_counter() - first)

    await connection.call(
        lambda call_back: channel.basic_qos(prefetch_count=prefetch, callback=call_back)
    )
    channel.basic_consume(BARE_QUEUE, on_message)
    seconds = await done
    await connection.close()
    return seconds


def _parameters(rabbitmq: Server) -> pika.URLParameters:
    parameters = pika.URLParameters(rabbitmq.url)
    parameters.credentials = pika.PlainCredentials(rabbitmq.username, rabbitmq.password)
    return parameters


def _one(connection: "psycopg.Connection[Any]", query: Any) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of bookings in each round")
    parser.add_argument("--bookings", type=int, default=400, help="over HTTP; 0 leaves that out")
    arguments = parser.parse_args()
    rounds = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ticketra-bench-")))
        postgres = stack.enter_context(servers.postgres())
        redis = stack.enter_context(servers.redis_server())
        rabbitmq = stack.enter_context(servers.rabbitmq())
        migrate_postgres(postgres)
        rig = Rig(postgres, redis, rabbitmq, directory, arguments.seconds)
        for number in range(arguments.rounds):
            print(f"round {number + 1}/{arguments.rounds}", file=sys.stderr)
            rounds.append(rig.round())
    _print(rounds)
    if arguments.bookings:
        print("booking over HTTP, on a local cloud of its own", file=sys.stderr)
        times = whole_stack.measure(arguments.bookings)
        print()
        print(whole_stack.table(times))
        if late := whole_stack.late_declines(times):
            sys.exit(f"stock came back too late from {late} declined bookings")


def _print(rounds: list[Round]) -> None:
    settled, bare, one_by_one, worker_us, booking_us = (
        statistics.median(values) for values in zip(*rounds, strict=True)
    )
    of_bare = statistics.median(one.settled / one.bare for one in rounds)
    of_one_by_one = statistics.median(one.settled / one.one_by_one for one in rounds)
    print(
        f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, medians of {len(rounds)} rounds"
    )
    print("| what | | aim |\n| --- | ---: | --- |")
    print(f"| payments settled | {settled:,.0f}/s | |")
    print(f"| bare consume-and-ack, {CHARGES_IN_FLIGHT} in flight | {bare:,.0f}/s | |")
    print(f"| settled of that | {of_bare:.0%} | ≥ 60 % |")
    print(f"| bare consume-and-ack, one by one | {one_by_one:,.0f}/s | |")
    print(f"| settled of that | {of_one_by_one:.0%} | |")
    print(f"| CPU of a payment, worker | {worker_us:.0f} µs | |")
    print(f"| CPU of a payment, booking task | {booking_us:.0f} µs | |")


if __name__ == "__main__":
    main()
