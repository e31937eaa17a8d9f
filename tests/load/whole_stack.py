"""How long a booking takes through the whole local stack, from the request to its end.

Buyers book over HTTP, one after the other each, on an instance of the local cloud of their own:
API Gateway, the gateway function, the booking task, RabbitMQ, the payment worker, the mock bank.
Request times are the client's; the others are what PostgreSQL noted, on the same machine's clock.
"""

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e.cloud import Cloud, User

BUYERS = 4
PAID_TICKETS, DECLINED_TICKETS = 2, 6
WARM_UP = 5  # bookings of each buyer, which are not counted
DECLINED_EVERY = 4  # one booking of so many
END_LIMIT_S = 60.0
POLL_S = 0.2
PAGE_LIMIT = 100
STOCK_BACK_LIMIT_MS = 2_000


class Times(NamedTuple):
    """Of one booking, in ms: until the answer, until its end, and from its commit to its end."""

    status: str
    answered: float
    ended: float
    settled: float


def measure(count: int) -> list[Times]:
    """Book `count` times on a new instance, and return the times of each booking."""
    with _deployed() as cloud:
        owner = cloud.register()
        event_id = cloud.create_event(owner, total_tickets=1_000_000)
        buyers = [cloud.register() for _ in range(BUYERS)]
        with ThreadPoolExecutor(BUYERS) as pool:
            for _ in range(WARM_UP):
                list(pool.map(lambda b: cloud.book_until_there(b, event_id, PAID_TICKETS), buyers))
            runs = pool.map(
                lambda buyer: list(_book(cloud, buyer, event_id, count // BUYERS)), buyers
            )
            asked = dict(one for run in runs for one in run)
        ended = {body["id"]: body for buyer in buyers for body in _ended(cloud, buyer)}
        return [_times(ended[booking_id], *asked[booking_id]) for booking_id in asked]


@contextmanager
def _deployed() -> Iterator[Cloud]:
    with tempfile.TemporaryDirectory(prefix="ticketra-bench-") as home:
        cloud = Cloud(Path(home))
        try:
            cloud.start()
            cloud.deploy()
            yield cloud
        finally:
            cloud.stop()


def _book(
    cloud: Cloud, buyer: User, event_id: str, count: int
) -> Iterator[tuple[str, tuple[datetime, float]]]:
    for number in range(count):
        tickets = PAID_TICKETS if number % DECLINED_EVERY else DECLINED_TICKETS
        sent_at, began = datetime.now(UTC), time.perf_counter()
        answer = cloud.book(buyer, event_id, tickets)
        if answer.status_code != 201:
            raise RuntimeError(answer.text)
        yield answer.json()["id"], (sent_at, (time.perf_counter() - began) * 1e3)


def _ended(cloud: Cloud, buyer: User) -> list[dict[str, Any]]:
    """Return all bookings of a buyer, once none is PENDING any more."""
    deadline = time.monotonic() + END_LIMIT_S
    while True:
        bodies, path = [], f"/api/bookings?limit={PAGE_LIMIT}"
        while path:
            page = cloud.api.get(path, headers=buyer.headers)
            bodies += page.json()
            path = "/api/bookings" + page.links["next"]["url"] if "next" in page.links else ""
        if all(body["status"] != "PENDING" for body in bodies):
            return bodies
        if time.monotonic() > deadline:
            raise RuntimeError(f"bookings are still PENDING after {END_LIMIT_S} s")
        time.sleep(POLL_S)


def _times(body: dict[str, Any], sent_at: datetime, answered_ms: float) -> Times:
    created, ended = (datetime.fromisoformat(body[f"{what}_at"]) for what in ("created", "updated"))
    return Times(
        body["status"],
        answered_ms,
        (ended - sent_at).total_seconds() * 1e3,
        (ended - created).total_seconds() * 1e3,
    )


def late_declines(times: list[Times]) -> int:
    """Count the declined bookings whose tickets came back after more than STOCK_BACK_LIMIT_MS."""
    return sum(one.status == "CANCELLED" and one.settled > STOCK_BACK_LIMIT_MS for one in times)


def table(times: list[Times]) -> str:
    """Return p50 and p99 of each, for what was paid and what was declined."""
    lines = ["| what | bookings | p50 ms | p99 ms |", "| --- | ---: | ---: | ---: |"]
    for status, end in (("CONFIRMED", "CONFIRMED"), ("CANCELLED", "declined, stock back on sale")):
        of_status = [one for one in times if one.status == status]
        for name, values in (
            ("request to answer", [one.answered for one in of_status]),
            (f"request to {end}", [one.ended for one in of_status]),
            (f"booked to {end}", [one.settled for one in of_status]),
        ):
            p50, p99 = (_quantile(values, q) for q in (0.5, 0.99))
            lines.append(f"| {name} | {len(values)} | {p50:.0f} | {p99:.0f} |")
    return "\n".join(lines)


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]
