"""How long no hold ends after an outage, by a clock that stands still."""

import asyncio
from typing import cast

import pytest

from booking import holds
from booking.booking_store import BookingStore, Expiry
from booking.grace import GRACE_S, OUTAGE_S, Grace
from booking.holds import Sweeper
from ticketra.messages import RETRY_DELAYS_S

HOLD_TTL_S = 600


class World:
    """PostgreSQL and a clock."""

    def __init__(self) -> None:
        self.available = True
        self.now = 1_000.0

    def grace(self, hold_ttl_s: float = HOLD_TTL_S) -> Grace:
        return Grace(lambda: self.available, hold_ttl_s, lambda: self.now)

    def seconds_until_over(self, grace: Grace) -> int:
        """Ask once a second, and return after how many seconds the answer is yes."""
        for second in range(1_000):
            if grace.is_over():
                return second
            self.now += 1
        raise AssertionError("never over")


def test_payment_comes_to_its_longest_retry_before_holds_end() -> None:
    assert max(RETRY_DELAYS_S) < GRACE_S


def test_a_task_that_starts_lets_payment_go_first() -> None:
    world = World()
    assert world.seconds_until_over(world.grace()) == GRACE_S


def test_a_grace_is_no_longer_than_a_hold() -> None:
    world = World()
    assert world.seconds_until_over(world.grace(hold_ttl_s=3)) == 3


def test_holds_end_from_then_on() -> None:
    world = World()
    grace = world.grace()
    world.seconds_until_over(grace)
    for _ in range(100):
        world.now += OUTAGE_S
        assert grace.is_over()


@pytest.mark.parametrize("away_s", [OUTAGE_S + 1, 3_600])
def test_after_an_outage_payment_goes_first_again(away_s: float) -> None:
    world = World()
    grace = world.grace()
    world.seconds_until_over(grace)
    world.available = False
    assert not grace.is_over()
    world.now += away_s
    world.available = True
    assert world.seconds_until_over(grace) == GRACE_S


def test_a_hiccup_is_no_outage() -> None:
    world = World()
    grace = world.grace()
    world.seconds_until_over(grace)
    world.available = False
    world.now += OUTAGE_S - 1
    assert not grace.is_over()
    world.available = True
    assert grace.is_over()


def test_a_long_sweep_is_no_outage() -> None:
    world = World()
    grace = world.grace()
    world.seconds_until_over(grace)
    world.now += 60
    grace.swept()
    world.now += 1
    assert grace.is_over()


class Sweeps:
    """A store with nothing due, that counts how often it is asked."""

    def __init__(self) -> None:
        self.count = 0

    async def expire_due(self, *_: object) -> Expiry:
        self.count += 1
        return Expiry(full=False)


async def test_the_sweeper_waits_for_the_grace_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "SWEEP_INTERVAL_S", 0)
    world, sweeps = World(), Sweeps()
    sweeper = Sweeper(cast("BookingStore", sweeps), HOLD_TTL_S, 3_600, lambda: None)
    running = asyncio.create_task(sweeper.run(world.grace()))
    for _ in range(50):
        await asyncio.sleep(0)
    assert sweeps.count == 0
    async with asyncio.timeout(10):
        while not sweeps.count:
            world.now += OUTAGE_S / 2
            for _ in range(10):
                await asyncio.sleep(0)
    running.cancel()
