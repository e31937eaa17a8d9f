"""`make bench`: the booking core beside an empty call and beside the seed's protocol, in one run.

Every row is measured in several rounds, all rows in turn within a round, so that a machine that
slows down slows all of them. Rates are medians; ratios are medians of the ratios within a round.
Server CPU is the server process's own; it is the figure that survives a noisy machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from tests.integration import servers
from tests.integration.booking_task import (
    CREDENTIALS,
    ROOT,
    BookingTask,
    Client,
    booking_tasks,
    migrate_postgres,
    orders,
)
from tests.integration.servers import Server, free_port
from tests.load import seed_server
from tests.load.client import Plan, Report

CAPACITY = 1_000_000
MANY_EVENTS = 1_000
CHANNELS_FOR_TWO_TASKS = 8
# Nothing listens there: the relay has nobody to publish to and stays out of the way.
NO_BROKER = "amqp://127.0.0.1:9/%2F"


@dataclass
class Row:
    """One line of the table."""

    name: str
    measure: Callable[["Bench"], "Sample"]
    ceiling: str | None = None
    """name of the row that this one is compared with"""
    aim: str = ""
    samples: list["Sample"] = field(default_factory=list)


@dataclass(frozen=True)
class Sample:
    """One round of one row; `rate` is bookings (or refusals, where they are the point) a second."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    note: str = ""


class Bench:
    """The servers under test and the events that they sell."""

    def __init__(
        self, postgres: Server, redis: Server, rabbitmq: Server, directory: Path, seconds: float
    ) -> None:
        self._postgres, self._redis, self._rabbitmq = postgres, redis, rabbitmq
        self._directory = directory
        self._seconds = seconds
        self._runs = 0

    def empty(self, kind: str, in_flight: int) -> Sample:
        address = f"127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "tests.load.empty_server", address, kind]
        with self._process(command, {}) as process:
            report, cpu_s = self._load([process], [address], ["event"], in_flight)
        return _sample(report, cpu_s, sum(report.answers.values()))

    def hot(self, in_flight: int, *, events: int = 1, relay: bool = False) -> Sample:
        with self._tasks(1, relay=relay) as tasks:
            ids = self._open_sales(tasks[0], events)
            report, cpu_s = self._load_tasks(tasks, ids, in_flight)
            note = self._lag() if relay else ""
        return replace(_sample(report, cpu_s, report.ok), note=note or _refusals(report))

    def two_tasks(self, in_flight: int) -> Sample:
        with self._tasks(2, relay=False) as tasks:
            ids = self._open_sales(tasks[0], 1)
            report, cpu_s = self._load_tasks(tasks, ids, in_flight, CHANNELS_FOR_TWO_TASKS)
        return replace(_sample(report, cpu_s, report.ok), note=_refusals(report))

    def sold_out(self, in_flight: int) -> Sample:
        with self._tasks(1, relay=False) as tasks:
            ids = self._open_sales(tasks[0], 1, capacity=1)
            report, cpu_s = self._load_tasks(tasks, ids, in_flight)
        return _sample(report, cpu_s, report.refused)

    def seed(self, in_flight: int) -> Sample:
        with self._tasks(1, relay=True) as tasks:
            environment = {**tasks[0].environment, "LISTEN_ADDRESS": f"127.0.0.1:{free_port()}"}
            tasks[0].kill()
            command = [sys.executable, "-m", "tests.load.seed_server"]
            with self._process(command, environment) as process:
                report, cpu_s = self._load(
                    [process], [environment["LISTEN_ADDRESS"]], ["seed"], in_flight
                )
        sample = _sample(report, cpu_s, report.ok)
        return replace(sample, note=f"{report.refused / report.seconds:,.0f} busy answers/s")

    def _open_sales(self, task: BookingTask, count: int, capacity: int = CAPACITY) -> list[str]:
        self._runs += 1
        with task.channel() as channel:
            client = Client(channel)
            ids = [f"bench-{self._runs}-{number}" for number in range(count)]
            for event_id in ids:
                client.put_sale(event_id, capacity)
        return ids

    @contextmanager
    def _tasks(self, count: int, *, relay: bool) -> Iterator[list[BookingTask]]:
        broker = self._rabbitmq if relay else replace(self._rabbitmq, url=NO_BROKER)
        if relay:
            with orders(self._postgres) as connection:
                connection.execute("TRUNCATE outbox")  # what the rows without a relay left
        with booking_tasks(
            self._postgres, self._redis, broker, self._directory, count=count
        ) as tasks:
            yield tasks

    def _load_tasks(
        self, tasks: list[BookingTask], events: list[str], in_flight: int, channels: int = 1
    ) -> tuple[Report, float]:
        processes = [psutil.Process(task.process.pid) for task in tasks if task.process]
        return self._load(processes, [tasks[0].address] * channels, events, in_flight)

    def _load(
        self,
        processes: list[psutil.Process],
        addresses: list[str],
        events: list[str],
        in_flight: int,
    ) -> tuple[Report, float]:
        """Warm up, then run the load; return its report and the CPU seconds of the servers."""
        self._runs += 1
        plan = Plan(addresses, CREDENTIALS["gateway"], events, in_flight, 0.5, f"w{self._runs}")
        _run_client(plan)
        before = sum(_cpu_s(process) for process in processes)
        report = _run_client(replace(plan, seconds=self._seconds, run=f"r{self._runs}"))
        return report, sum(_cpu_s(process) for process in processes) - before

    @contextmanager
    def _process(self, command: list[str], environment: dict[str, str]) -> Iterator[psutil.Process]:
        with subprocess.Popen(command, env=_environment() | environment, cwd=ROOT) as process:
            try:
                yield psutil.Process(process.pid)
            finally:
                process.kill()

    def _lag(self) -> str:
        """Return how many messages wait right after the load."""
        with orders(self._postgres) as connection:
            row = connection.execute(
                "SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)"
                " FROM outbox WHERE published_at IS NULL"
            ).fetchone()
        assert row is not None
        return f"outbox lag {row[0]:,} messages, {row[1]:.1f} s"

    def fill(self, count: int) -> None:
        """Store `count` bookings of other events and users."""
        with orders(self._postgres) as connection:
            connection.execute(
                """
                INSERT INTO sales (event_id, version, capacity, remaining, price_amount_minor,
                                   price_currency, max_per_booking, max_per_user)
                SELECT 'stored-' || n, 1, 1000000, 1000000, 0, '', 0, 0
                  FROM generate_series(1, 1000) AS n
                """
            )
            connection.execute(
                """
                INSERT INTO bookings (id, event_id, user_id, ticket_count, amount_minor, currency,
                                      status, payment_status, hold_expires_at, created_at,
                                      updated_at, idempotency_key, request_hash)
                SELECT gen_random_uuid(), 'stored-' || (1 + n %% 1000), 'stored-' || n / 5, 1, 0,
                       '', 'CANCELLED', 'pending', now(), now(), now(), 'stored-' || n, '\\x00'
                  FROM generate_series(1, %s::bigint) AS n
                """,
                [count],
            )
            connection.execute("VACUUM ANALYZE bookings")


ROWS = [
    Row("empty call, 64 in flight", lambda b: b.empty("empty", 64)),
    Row("empty call, 512", lambda b: b.empty("empty", 512)),
    Row("hot event, 64", lambda b: b.hot(64), "empty call, 64 in flight", "≥ 85 %"),
    Row("hot event, 512", lambda b: b.hot(512), "empty call, 512", "≥ 85 %"),
    Row("two tasks, hot event, 512", lambda b: b.two_tasks(512), "hot event, 512", "≥ 100 %"),
    Row(
        "1,000 events, 512",
        lambda b: b.hot(512, events=MANY_EVENTS),
        "hot event, 512",
        "≥ 85 %",
    ),
    Row("prebuilt refusal, 64", lambda b: b.empty("refuse", 64)),
    Row("sold out, 64", lambda b: b.sold_out(64), "prebuilt refusal, 64", "≥ 90 %"),
    Row(
        "hot event, 64, publishing",
        lambda b: b.hot(64, relay=True),
        "empty call, 64 in flight",
        "≥ 65 %",
    ),
    Row("the seed's protocol, 64", lambda b: b.seed(64), "hot event, 64", "≤ 14 %"),
]


def _run_client(plan: Plan) -> Report:
    done = subprocess.run(
        [sys.executable, "-m", "tests.load.client"],
        input=json.dumps(asdict(plan)),
        capture_output=True,
        text=True,
        check=False,
        env=_environment(),
        cwd=ROOT,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return Report(**json.loads(done.stdout))


def _environment() -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:{ROOT}/functions:{ROOT}/layers/common",
        "POWERTOOLS_SERVICE_NAME": "load",
    }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _sample(report: Report, cpu_s: float, count: int) -> Sample:
    answers = sum(report.answers.values())
    return Sample(
        rate=count / report.seconds,
        p50_ms=report.p50_ms,
        p99_ms=report.p99_ms,
        cpu_us=cpu_s / max(answers, 1) * 1e6,
    )


def _refusals(report: Report) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in report.answers.items() if name != "OK")


def _table(rows: list[Row]) -> str:
    by_name = {row.name: row for row in rows}
    lines = [
        "| what | rate /s | of | ratio | aim | p50 ms | p99 ms | server CPU µs/call | |",
        "| --- | ---: | --- | ---: | --- | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        rate, p50, p99, cpu = (
            statistics.median(getattr(sample, name) for sample in row.samples)
            for name in ("rate", "p50_ms", "p99_ms", "cpu_us")
        )
        ratio = ""
        if row.ceiling in by_name:
            ceilings = by_name[row.ceiling].samples
            pairs = zip(row.samples, ceilings, strict=True)
            ratio = f"{statistics.median(own.rate / other.rate for own, other in pairs):.0%}"
        lines.append(
            f"| {row.name} | {rate:,.0f} | {row.ceiling or ''} | {ratio} | {row.aim} |"
            f" {p50:.1f} | {p99:.1f} | {cpu:.0f} | {row.samples[-1].note} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of load for each row and round")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--stored", type=int, default=0, help="bookings that are stored before")
    arguments: Any = parser.parse_args()
    rows = [row for row in ROWS if arguments.only in row.name]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ticketra-bench-")))
        postgres = stack.enter_context(servers.postgres())
        redis = stack.enter_context(servers.redis_server())
        rabbitmq = stack.enter_context(servers.rabbitmq())
        migrate_postgres(postgres)
        with orders(postgres) as connection:
            connection.execute(seed_server.CREATE_TABLE)
        bench = Bench(postgres, redis, rabbitmq, directory, arguments.seconds)
        if arguments.stored:
            bench.fill(arguments.stored)
        for number in range(arguments.rounds):
            for row in rows:
                print(f"round {number + 1}/{arguments.rounds}: {row.name}", file=sys.stderr)
                row.samples.append(row.measure(bench))
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {arguments.stored:,} stored")
    print(_table(rows))


if __name__ == "__main__":
    main()
