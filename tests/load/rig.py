"""What `make bench` measures with: servers, booking tasks, and a load against them."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from tests.integration.booking.due_holds import sell_out_with_due_holds
from tests.integration.booking_task import (
    CREDENTIALS,
    ROOT,
    BookingTask,
    Client,
    booking_tasks,
    orders,
)
from tests.integration.servers import Server, free_port
from tests.load import reopening
from tests.load.client import Plan, Report

CAPACITY = 1_000_000
CHANNELS_FOR_TWO_TASKS = 8
DUE_HOLDS = 50_000
SWEEP_LIMIT_S = 60.0
SWEEP_POLL_S = 0.02
REOPENINGS = 100
# Nothing listens there: the relay has nobody to publish to and stays out of the way.
NO_BROKER = "amqp://127.0.0.1:9/%2F"


@dataclass(frozen=True)
class Sample:
    """One round of one row; `rate` is bookings (or refusals, where they are the point) a second."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    note: str = ""


class Rig:
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

    def soak(self, in_flight: int, seconds: float) -> str:
        """Return the server's memory before and after a long load."""
        with self._tasks(1, relay=True) as tasks:
            ids = self._open_sales(tasks[0], 1)
            assert tasks[0].process is not None
            process = psutil.Process(tasks[0].process.pid)
            self._load_tasks(tasks, ids, in_flight)
            before = process.memory_info().rss
            report, _ = self._load([process], [tasks[0].address], ids, in_flight, seconds)
            after = process.memory_info().rss
        return f"{before / 1e6:.0f} → {after / 1e6:.0f} MB over {report.ok:,} bookings"

    def sweep(self) -> str:
        """Return how long two tasks take to give back many holds that end at once."""
        self._runs += 1
        event_id = f"bench-{self._runs}-due"
        # A task leaves holds alone for as long as one lasts after its start.
        short = {"HOLD_TTL_S": "1"}
        with self._tasks(2, relay=False, **short) as tasks, tasks[0].channel() as channel:
            client = Client(channel)
            sell_out_with_due_holds(self._postgres, event_id, DUE_HOLDS)
            started = time.monotonic()
            while client.remaining(event_id) < DUE_HOLDS:
                if time.monotonic() > started + SWEEP_LIMIT_S:
                    raise RuntimeError(f"after {SWEEP_LIMIT_S} s holds are still not given back")
                time.sleep(SWEEP_POLL_S)
            return f"{time.monotonic() - started:.1f} s"

    def reopening(self) -> str:
        """Return how long a returned ticket stays hidden in either of two tasks."""
        with self._tasks(1, relay=False) as one, self._tasks(1, relay=False) as other:
            found = sorted(reopening.measure([*one, *other], REOPENINGS))
        return f"p50 {found[len(found) // 2]:.0f} ms, max {found[-1]:.0f} ms"

    def _open_sales(self, task: BookingTask, count: int, capacity: int = CAPACITY) -> list[str]:
        self._runs += 1
        with task.channel() as channel:
            client = Client(channel)
            ids = [f"bench-{self._runs}-{number}" for number in range(count)]
            for event_id in ids:
                client.put_sale(event_id, capacity)
        return ids

    @contextmanager
    def _tasks(self, count: int, *, relay: bool, **settings: str) -> Iterator[list[BookingTask]]:
        broker = self._rabbitmq if relay else replace(self._rabbitmq, url=NO_BROKER)
        if relay:
            with orders(self._postgres) as connection:
                connection.execute("TRUNCATE outbox")  # what the rows without a relay left
        logs = Path(tempfile.mkdtemp(dir=self._directory))
        with booking_tasks(
            self._postgres, self._redis, broker, logs, count=count, **settings
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
        seconds: float | None = None,
    ) -> tuple[Report, float]:
        """Warm up, then run the load; return its report and the CPU seconds of the servers."""
        self._runs += 1
        plan = Plan(addresses, CREDENTIALS["gateway"], events, in_flight, 0.5, f"w{self._runs}")
        run_client(plan)
        before = sum(cpu_seconds(process) for process in processes)
        report = run_client(replace(plan, seconds=seconds or self._seconds, run=f"r{self._runs}"))
        return report, sum(cpu_seconds(process) for process in processes) - before

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


def run_client(plan: Plan) -> Report:
    """Run a plan in a process of its own."""
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


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time that a process has used, in seconds."""
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
