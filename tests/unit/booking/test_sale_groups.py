"""Groups of one sale each: what shares one, and whom a stuck sale holds up."""

import asyncio
from collections.abc import Sequence

import pytest

from booking import transitions
from booking.groups import Wish
from booking.sale_groups import Outcome, SaleGroups


class Stuck(Exception):  # noqa: N818 - a state of the world
    """Nothing of the group was done."""


class Sales:
    """Keeps the groups of each event; those of `stuck` events wait until they are let go."""

    def __init__(self) -> None:
        self.groups: list[tuple[str, list[str]]] = []
        self.stuck: dict[str, asyncio.Event] = {}

    async def __call__(self, event_id: str, wishes: Sequence[Wish]) -> list[Outcome]:
        self.groups.append((event_id, [wish.booking_id for wish in wishes]))
        if event_id in self.stuck:
            await self.stuck[event_id].wait()
            raise Stuck
        return [None for _ in wishes]


@pytest.fixture
def sales() -> Sales:
    return Sales()


def submit(groups: SaleGroups, event_id: str, booking_id: str) -> "asyncio.Task[Outcome]":
    wish = Wish(booking_id, transitions.confirm, "test")
    return asyncio.create_task(groups.submit(event_id, wish))


async def test_wishes_of_one_event_at_once_share_a_group(sales: Sales) -> None:
    groups = SaleGroups(sales, divides=lambda _: False)
    await asyncio.gather(
        submit(groups, "a", "1"), submit(groups, "b", "2"), submit(groups, "a", "3")
    )
    assert sales.groups == [("a", ["1", "3"]), ("b", ["2"])]
    assert await submit(groups, "a", "4") is None
    assert sales.groups[2:] == [("a", ["4"])]


async def test_a_stuck_event_holds_up_its_own_only_and_they_fail_together(sales: Sales) -> None:
    sales.stuck["a"] = asyncio.Event()
    groups = SaleGroups(sales, divides=lambda _: False)
    first = submit(groups, "a", "1")
    await asyncio.sleep(0.01)
    others = [submit(groups, "a", str(number)) for number in range(2, 40)]
    assert await submit(groups, "b", "b") is None
    sales.stuck["a"].set()
    failures = await asyncio.gather(first, *others, return_exceptions=True)
    assert {type(failure) for failure in failures} == {Stuck}
    assert [len(ids) for event_id, ids in sales.groups if event_id == "a"] == [1, 38]
