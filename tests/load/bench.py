"""`make bench`: the booking core beside an empty call and beside the seed's protocol, in one run.

Every row is measured in several rounds, all rows in turn within a round, so that a machine that
slows down slows all of them. Rates are medians; ratios are medians of the ratios within a round.
Server CPU is the server process's own; it is the figure that survives a noisy machine.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration import servers
from tests.integration.booking_task import migrate_postgres, orders
from tests.load import seed_server
from tests.load.rig import DUE_HOLDS, Rig, Sample

MANY_EVENTS = 1_000
HOT = "hot event, 64"


@dataclass
class Row:
    """One line of the table."""

    name: str
    measure: Callable[[Rig], Sample]
    ceiling: str | None = None
    """name of the row that this one is compared with"""
    aim: str = ""
    samples: list[Sample] = field(default_factory=list)


ROWS = [
    Row("empty call, 64 in flight", lambda r: r.empty("empty", 64)),
    Row("empty call, 512", lambda r: r.empty("empty", 512)),
    Row(
        "empty call on the task's own server, 64",
        lambda r: r.empty("own", 64),
        "empty call, 64 in flight",
    ),
    Row(HOT, lambda r: r.hot(64), "empty call, 64 in flight", "≥ 85 %"),
    Row("hot event, 512", lambda r: r.hot(512), "empty call, 512", "≥ 85 %"),
    Row("two tasks, hot event, 512", lambda r: r.two_tasks(512), "hot event, 512", "≥ 100 %"),
    Row(
        "1,000 events, 512",
        lambda r: r.hot(512, events=MANY_EVENTS),
        "hot event, 512",
        "≥ 85 %",
    ),
    Row("prebuilt refusal, 64", lambda r: r.empty("refuse", 64)),
    Row("sold out, 64", lambda r: r.sold_out(64), "prebuilt refusal, 64", "≥ 90 %"),
    Row(
        "hot event, 64, publishing",
        lambda r: r.hot(64, relay=True),
        "empty call, 64 in flight",
        "≥ 65 %",
    ),
    Row("the seed's protocol, 64", lambda r: r.seed(64), HOT, "≤ 14 %"),
]


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
    parser.add_argument("--stored", type=int, default=0, help="bookings stored for the last row")
    parser.add_argument("--soak", type=float, default=30.0, help="seconds of load for the memory")
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
        rig = Rig(postgres, redis, rabbitmq, directory, arguments.seconds)
        for number in range(arguments.rounds):
            for row in rows:
                _say(f"round {number + 1}/{arguments.rounds}: {row.name}")
                row.samples.append(row.measure(rig))
        if arguments.stored:
            rows.append(_stored(rig, arguments.stored, arguments.rounds))
        once = [] if arguments.only else _once(rig, arguments.soak)
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
    print(_table(rows))
    if once:
        print("\n| what, measured once | | aim |\n| --- | --- | --- |", *once, sep="\n")


def _stored(rig: Rig, count: int, rounds: int) -> Row:
    """Measure the hot event once more, with many bookings stored."""
    row = Row(f"{HOT}, {count:,} bookings stored", lambda r: r.hot(64), HOT, "≥ 90 %")
    _say(f"storing {count:,} bookings")
    rig.fill(count)
    for number in range(rounds):
        _say(f"round {number + 1}/{rounds}: {row.name}")
        row.samples.append(row.measure(rig))
    return row


def _once(rig: Rig, soak_s: float) -> list[str]:
    _say("memory, holds, reopening")
    return [
        f"| memory, {HOT}, publishing, {soak_s:.0f} s | {rig.soak(64, soak_s)} | flat |",
        f"| {DUE_HOLDS:,} holds that end at once, two tasks | {rig.sweep()} | ≤ 5 s |",
        f"| a returned ticket is on sale again in both tasks | {rig.reopening()} | ≤ 100 ms |",
    ]


def _say(progress: str) -> None:
    print(progress, file=sys.stderr)


if __name__ == "__main__":
    main()
