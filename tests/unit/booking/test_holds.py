"""The sweeper's loop, over a store that the test controls."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg
import pytest

from booking import holds
from booking.booking_store import Ending, Expiry
from booking.grace import Grace
from booking.holds import WAITED_FOR_LIMIT, Sweeper
from ticketra.database import unavailable


class Store:
    """Due holds by event, two to a batch; sales can be `locked` for those who skip or who wait."""

    def __init__(self, **due: int) -> None:
        self.due = due
        self.locked: set[str] = set()
        self.stuck: set[str] = set()
        self.waited_for: list[str] = []

    async def expire_due(
        self, ending: Ending, hold_ttl_s: int, hold_max_s: int, passing_over: Sequence[str] = ()
    ) -> Expiry:
        seen = [e for e, n in self.due.items() for _ in range(n) if e not in passing_over][:2]
        locked = frozenset(e for e in seen if e in self.locked)
        free = [e for e in seen if e not in locked]
        for event_id in free:
            self.due[event_id] -= 1
        return Expiry(len(seen) == 2, len(free), 0, locked)

    async def expire_due_of(
        self, event_id: str, ending: Ending, hold_ttl_s: int, hold_max_s: int
    ) -> Expiry:
        self.waited_for.append(event_id)
        if event_id in self.stuck:
            raise psycopg.errors.LockNotAvailable
        count = min(2, self.due[event_id])
        self.due[event_id] -= count
        return Expiry(count == 2, count)


def sweeper(store: Store) -> tuple[Sweeper, list[None]]:
    """Return a sweeper and what it notes for each commit."""
    commits: list[None] = []
    return Sweeper(store, 600, 3600, lambda: commits.append(None)), commits  # type: ignore[arg-type]


async def test_it_goes_on_until_nothing_is_due_and_says_what_it_committed() -> None:
    store = Store(a=3, b=2)
    sweeping, commits = sweeper(store)
    assert await sweeping.sweep() == 5
    assert len(commits) == 3
    assert await sweeping.sweep() == 0
    assert len(commits) == 3


async def test_a_locked_sale_stalls_no_other_and_is_waited_for_at_the_end() -> None:
    store = Store(hot=5, cold=3)
    store.locked = {"hot"}
    sweeping, _ = sweeper(store)
    assert await sweeping.sweep() == 8
    assert set(store.waited_for) == {"hot"}


async def test_a_stuck_sale_is_waited_for_in_every_other_sweep_only() -> None:
    store = Store(stuck=1)
    store.locked = store.stuck = {"stuck"}
    sweeping, commits = sweeper(store)
    for _ in range(4):
        assert await sweeping.sweep() == 0
    assert store.waited_for == ["stuck", "stuck"]
    assert commits == []


async def test_only_so_many_locked_sales_are_waited_for() -> None:
    store = Store(**{f"e{n}": 1 for n in range(WAITED_FOR_LIMIT + 5)})
    store.locked = set(store.due)
    sweeping, _ = sweeper(store)
    assert await sweeping.sweep() == WAITED_FOR_LIMIT


async def test_bookings_that_others_have_locked_end_the_sweep() -> None:
    class Busy(Store):
        async def expire_due(self, *_: object) -> Expiry:
            return Expiry(full=True)

    sweeping, _ = sweeper(Busy())
    assert await sweeping.sweep() == 0


class Looking(Store):
    """Nothing is due; counts the looks, and gives way to others with each. Some looks fail."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.failures: list[Exception] = []

    async def expire_due(self, *_: object) -> Expiry:
        self.looks += 1
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop()
        return Expiry(full=False)


@asynccontextmanager
async def running(store: Store) -> AsyncIterator[None]:
    sweeping, _ = sweeper(store)
    task = asyncio.create_task(sweeping.run(Grace(lambda: True, hold_ttl_s=0)))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def turns(count: int) -> None:
    """Let whoever can run do so, `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_it_waits_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "SWEEP_INTERVAL_S", 60.0)
    store = Looking()
    async with running(store):
        await turns(100)
        assert store.looks <= 1, "a look at once would do no harm, a look at every turn would"


async def test_it_looks_again_after_a_wait_and_after_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holds, "SWEEP_INTERVAL_S", 0.001)
    store = Looking()
    store.failures = [unavailable(), psycopg.OperationalError("away")]
    async with running(store), asyncio.timeout(10):
        while store.looks < 5:  # noqa: ASYNC110 - the sweeper has no event for it
            await asyncio.sleep(0.001)
    assert store.failures == []
