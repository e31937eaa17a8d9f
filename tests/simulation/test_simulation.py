"""Ten thousand worlds, each with faults of its own, and what must hold in all of them.

A failing seed is printed with the command that replays it: nothing but the seed decides what
happens, so it fails again in the same way, with a trace of every step that matters.
"""

from collections import Counter

import pytest

from tests.simulation.database import Refused
from tests.simulation.guards import Guard
from tests.simulation.world import World

CONTROL_SEEDS = 600
RARE_CONTROL_SEEDS = 3_000


def find_failing_seed(seeds: range, off: frozenset[Guard]) -> int | None:
    """Return the first seed that breaks something with the guards in `off` switched off."""
    for seed in seeds:
        try:
            World(seed, off).run()
        except (AssertionError, Refused):
            return seed
    return None


def test_everything_that_must_hold_holds(seeds: range) -> None:
    for seed in seeds:
        world = World(seed, traced=len(seeds) == 1)
        try:
            world.run()
        except Exception as broken:
            print(*world.trace, sep="\n")  # noqa: T201 - shown with the failure
            broken.add_note(f"To replay it: pytest tests/simulation --seed {seed}")
            raise


def test_a_seed_always_makes_the_same_world() -> None:
    first, second = World(7, traced=True), World(7, traced=True)
    first.run()
    second.run()
    assert first.trace == second.trace


@pytest.mark.parametrize(
    "off",
    [
        {Guard.SALE_LOCK},
        {Guard.SALE_LOCK, Guard.STOCK_CHECK},
        {Guard.KEY_INDEX},
        {Guard.KEY_INDEX, Guard.KEY_LOOKUP},
        {Guard.STATE_CONDITION},
        {Guard.MARKER_VERSION},
        {Guard.READ_BACK},
        {Guard.READ_BACK_LOCK},
        {Guard.OUTBOX_IN_TRANSACTION},
        {Guard.LINE_ORDER},
        {Guard.HOLD_CLOCK},
        {Guard.CHARGE_KEY},
        {Guard.CHARGE_LOOKUP},
        {Guard.HOLD_FOR_ATTEMPT},
        {Guard.HOLD_FOR_RETRY},
        {Guard.LATE_PAYMENT_NOTED},
        {Guard.REFUND_AFTER_CANCEL},
        {Guard.REFUND_RECORDED},
        {Guard.PAYMENT_CONDITION},
        {Guard.PAYMENT_OUTBOX},
        {Guard.CLOSING_GOES_ON},
    ],
    ids=lambda off: " and ".join(sorted(guard.name.lower() for guard in off)),
)
def test_without_a_guard_something_breaks(off: set[Guard]) -> None:
    """The negative controls: a simulation that notices nothing proves nothing."""
    assert find_failing_seed(range(CONTROL_SEEDS), frozenset(off)) is not None


@pytest.mark.parametrize(
    "guard",
    [
        Guard.SECOND_KEY_LOOKUP,
        Guard.SPLIT_ORDER,
        Guard.MARKER_STAMP,
        Guard.ABANDONED_LOOKUP,
        Guard.REFUND_DECIDED_AGAIN,
    ],
)
def test_without_a_guard_something_rare_breaks(guard: Guard) -> None:
    """Two things have to come together, such as a refused batch and another task."""
    assert find_failing_seed(range(RARE_CONTROL_SEEDS), frozenset({guard})) is not None


def test_the_worlds_are_eventful() -> None:
    """Each thing that the invariants speak of happens, and often."""
    seen: Counter[str] = Counter()
    for seed in range(200):
        world = World(seed)
        world.run()
        seen += world.invariants.seen
    for event in EVENTS:
        assert seen[event] >= 10, f"{event}: {seen[event]} times"


EVENTS = (
    "sale put",
    "sale closed",
    "reopened",
    "booked",
    "marker hit",
    "marker hides a reopened sale",
    "PENDING to CONFIRMED",
    "PENDING to CANCELLED",
    "PENDING to EXPIRED",
    "PENDING to PENDING",
    "CONFIRMED to CANCELLED",
    "EXPIRED to CONFIRMED",
    "EXPIRED to EXPIRED",
    "CANCELLED to CANCELLED",
    "booking ended with its sale",
    "payment started to abandoned",
    "payment paid to refunding",
    "payment succeeded to refunding",
    "payment refunding to refunded",
    "refunded",
    "confirmation refused",
    "task crashed",
    "worker crashed",
)
