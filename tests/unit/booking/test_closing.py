"""The closer's rounds, over closed sales of which some are locked."""

import asyncio
from typing import cast

import psycopg
import pytest

from booking import closing
from booking.closing import WAITED_FOR_LIMIT, Closer
from booking.closing_store import Closed, ClosingStore
from ticketra.errors import Unavailable


class Store:
    """Closed sales with the batches that are left of each; locked ones cannot be had."""

    def __init__(self, batches: dict[str, int], locked: set[str] | None = None) -> None:
        self.batches = batches
        self.locked = locked or set()
        self.asked: list[str] = []
        self.waited_for: list[str] = []
        self.failures: list[Exception] = []

    async def closing(self) -> list[str]:
        if self.failures:
            raise self.failures.pop()
        return [event_id for event_id, left in self.batches.items() if left]

    async def end_some(self, event_id: str, _: object, *, wait: bool) -> Closed | None:
        (self.waited_for if wait else self.asked).append(event_id)
        if event_id in self.locked:
            if wait:
                raise psycopg.errors.LockNotAvailable
            return None
        self.batches[event_id] -= 1
        return Closed(3, more=self.batches[event_id] > 0)


def closer(store: Store) -> tuple[Closer, list[str]]:
    """Return a closer, and a list that grows with each commit that tells the world something."""
    commits: list[str] = []
    return Closer(cast("ClosingStore", store), lambda: commits.append("")), commits


async def test_sales_take_turns_batch_by_batch() -> None:
    store = Store({"large": 3, "small": 1})
    one, commits = closer(store)
    assert await one.close() == 12
    assert store.asked == ["large", "small", "large", "large"]
    assert len(commits) == 4


async def test_a_locked_sale_is_waited_for_after_the_others() -> None:
    store = Store({"locked": 1, "free": 2}, {"locked"})
    one, _ = closer(store)
    assert await one.close() == 6
    assert store.asked == ["locked", "free"] * 2 + ["locked"]
    assert store.batches == {"locked": 1, "free": 0}


async def test_a_stuck_sale_is_waited_for_in_every_second_round_only() -> None:
    store = Store({"stuck": 1}, {"stuck"})
    one, _ = closer(store)
    for _ in range(4):
        assert await one.close() == 0
    assert store.asked == ["stuck"] * 4
    assert store.waited_for == ["stuck"] * 2


async def test_few_locked_sales_are_waited_for_in_a_round() -> None:
    names = [f"event-{number}" for number in range(WAITED_FOR_LIMIT + 5)]
    store = Store(dict.fromkeys(names, 1), set(names))
    one, _ = closer(store)
    await one.close()
    assert store.waited_for == names[:WAITED_FOR_LIMIT]
    await one.close()
    assert store.waited_for[WAITED_FOR_LIMIT:] == names[WAITED_FOR_LIMIT:]


async def test_a_booking_that_stays_locked_is_like_a_locked_sale() -> None:
    class Stuck(Store):
        async def end_some(self, event_id: str, _: object, *, wait: bool) -> Closed | None:
            raise psycopg.errors.LockNotAvailable

    one, commits = closer(Stuck({"a": 1}))
    assert await one.close() == 0
    assert commits == []


@pytest.mark.parametrize(
    "error", [psycopg.errors.QueryCanceled, psycopg.DataError, psycopg.IntegrityError]
)
async def test_a_sale_whose_batch_is_refused_does_not_stall_the_others(
    error: type[psycopg.Error],
) -> None:
    class Refusing(Store):
        async def end_some(self, event_id: str, _: object, *, wait: bool) -> Closed | None:
            if event_id == "bad":
                raise error
            return await super().end_some(event_id, _, wait=wait)

    store = Refusing({"bad": 1, "good": 2})
    one, _ = closer(store)
    assert await one.close() == 6
    assert store.batches == {"bad": 1, "good": 0}


async def test_it_goes_on_after_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "CLOSING_INTERVAL_S", 0)
    store = Store({"a": 1})
    store.failures = [Unavailable("unavailable", ""), psycopg.OperationalError()]
    one, _ = closer(store)
    running = asyncio.create_task(one.run())
    async with asyncio.timeout(10):
        while store.batches["a"]:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
    running.cancel()
