"""The relay's loop, with an outbox and a broker that the test controls."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from tests.unit.booking.builders import NOW
from ticketra.amqp import BrokerAway
from ticketra.broker import Publication
from ticketra.outbox_store import PRUNE_BATCH_LIMIT, OutboxRow
from ticketra.relay import PRUNE_INTERVAL_S, Relay


class Outbox:
    """Rows in memory; `unpublished` gives at most two at a time."""

    def __init__(self, count: int, *, leads: bool = True) -> None:
        self.rows = [
            OutboxRow(str(n), f"subject-{n}", "booking.created", "{}", NOW) for n in range(count)
        ]
        self.leads = leads
        self.prunable = 0
        self.prunings = 0

    async def lead(self) -> bool:
        return self.leads

    async def unpublished(self) -> list[OutboxRow]:
        return self.rows[:2]

    async def mark_published(self, ids: set[str]) -> None:
        self.rows = [row for row in self.rows if row.id not in ids]

    async def prune(self, keep_s: int) -> int:
        self.prunings += 1
        deleted = min(self.prunable, PRUNE_BATCH_LIMIT)
        self.prunable -= deleted
        return deleted

    async def close(self) -> None:
        return None


class Broker:
    """Confirms what it is given once it is `open`, except what it `refuses`."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.refuses: set[str] = set()
        self.failures = 0
        self.published: list[str] = []

    async def publish(self, batch: Sequence[Publication]) -> set[str]:
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise BrokerAway("away")
        ids = [publication.properties.message_id for publication in batch]
        self.published += ids
        return set(ids) - self.refuses

    async def close(self) -> None:
        return None


@asynccontextmanager
async def running(
    outbox: Outbox, broker: Broker, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Relay]:
    relay = Relay(outbox, broker, "/test", clock)
    task = asyncio.create_task(relay.run())
    await asyncio.sleep(0)
    yield relay
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await relay.close()


async def test_flushed_means_that_everything_is_published_and_marked() -> None:
    outbox, broker = Outbox(5), Broker()
    async with running(outbox, broker) as relay:
        flushing = asyncio.create_task(relay.flushed())
        await asyncio.sleep(0.2)
        assert not flushing.done()
        broker.open.set()
        await flushing
    assert outbox.rows == []
    assert broker.published == ["0", "1", "2", "3", "4"]


async def test_a_task_without_the_lead_publishes_nothing_and_has_nothing_to_flush() -> None:
    outbox, broker = Outbox(1, leads=False), Broker()
    broker.open.set()
    async with running(outbox, broker) as relay:
        await relay.flushed()
    assert broker.published == []
    assert len(outbox.rows) == 1


async def test_what_the_broker_did_not_take_stays() -> None:
    outbox, broker = Outbox(2), Broker()
    broker.open.set()
    broker.refuses = {"0"}
    relay = Relay(outbox, broker, "/test")
    assert await relay.publish_once() == 1
    assert [row.id for row in outbox.rows] == ["0"]


async def test_a_broker_that_is_away_is_tried_again() -> None:
    outbox, broker = Outbox(1), Broker()
    broker.open.set()
    broker.failures = 2
    async with running(outbox, broker), asyncio.timeout(10):
        while outbox.rows:  # noqa: ASYNC110 - the relay has no event for it
            await asyncio.sleep(0.01)


async def test_publishing_fails_loudly_when_the_broker_is_away() -> None:
    broker = Broker()
    broker.open.set()
    broker.failures = 1
    with pytest.raises(BrokerAway):
        await Relay(Outbox(1), broker, "/test").publish_once()


async def test_rows_are_pruned_once_in_an_interval_and_a_backlog_without_a_pause() -> None:
    outbox, broker, now = Outbox(0), Broker(), 100.0
    broker.open.set()
    outbox.prunable = 2 * PRUNE_BATCH_LIMIT + 1
    async with running(outbox, broker, lambda: now) as relay:

        async def idle() -> None:
            relay.wake()
            await relay.flushed()

        for _ in range(6):
            await idle()
        assert (outbox.prunable, outbox.prunings) == (0, 3)
        now += PRUNE_INTERVAL_S
        await idle()
        await idle()
        assert outbox.prunings == 4


async def test_a_relay_that_is_never_idle_prunes_as_well() -> None:
    class Endless(Outbox):
        async def mark_published(self, ids: set[str]) -> None:
            await asyncio.sleep(0)

    outbox, broker = Endless(1), Broker()
    broker.open.set()
    outbox.prunable = 1
    async with running(outbox, broker), asyncio.timeout(10):
        while len(broker.published) < 10:  # noqa: ASYNC110 - the relay has no event for it
            await asyncio.sleep(0.01)
    assert outbox.prunable == 0


class Looking(Outbox):
    """Empty; counts the looks, and gives way to others with each."""

    looks = 0

    async def unpublished(self) -> list[OutboxRow]:
        self.looks += 1
        await asyncio.sleep(0)
        return await super().unpublished()


async def test_it_waits_after_an_empty_look_until_it_is_woken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ticketra.relay.SWEEP_INTERVAL_S", 60.0)
    outbox = Looking(0)
    async with running(outbox, Broker()) as relay:
        for _ in range(100):
            await asyncio.sleep(0)
        assert outbox.looks == 1
        relay.wake()
        for _ in range(100):
            await asyncio.sleep(0)
        assert outbox.looks == 2


async def test_it_looks_again_after_a_while_without_being_woken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ticketra.relay.SWEEP_INTERVAL_S", 0.001)
    outbox = Looking(0)
    async with running(outbox, Broker()), asyncio.timeout(10):
        while outbox.looks < 5:  # noqa: ASYNC110 - the relay has no event for it
            await asyncio.sleep(0.001)
