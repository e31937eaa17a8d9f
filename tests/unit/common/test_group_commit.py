"""Small writes that share a transaction: their order, their batches, and whom an error hits."""

import asyncio
from collections.abc import Sequence

import pytest

from ticketra.group_commit import GroupCommit


class BadItem(Exception):  # noqa: N818 - says what is wrong
    """One item of a batch is to blame."""


class Away(Exception):  # noqa: N818 - a state of the world
    """No item is to blame."""


class Writes:
    """Keeps the batches that it is given; doubles each item, and waits for `may_end`.

    A batch with an item of `bad` fails as a whole, as a transaction does; while `away`, each does.
    """

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.bad: set[int] = set()
        self.away = False
        self.may_end = asyncio.Event()
        self.may_end.set()
        self._in_flight = 0

    async def __call__(self, items: Sequence[int]) -> list[int]:
        assert self._in_flight == 0, "two batches at once"
        self._in_flight += 1
        self.batches.append(list(items))
        await self.may_end.wait()
        self._in_flight -= 1
        if self.away:
            raise Away
        if self.bad.intersection(items):
            raise BadItem
        return [2 * item for item in items]


def group_commit(writes: Writes, limit: int = 500) -> GroupCommit[int, int]:
    return GroupCommit(
        writes, divides=lambda error: isinstance(error, BadItem), limit=limit, pace_s=0
    )


async def submitted(group: GroupCommit[int, int], *items: int) -> "list[asyncio.Task[int]]":
    """Have items submitted in this order, and wait until all of them are."""
    tasks = [asyncio.ensure_future(group.submit(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def settled(tasks: "list[asyncio.Task[int]]") -> list[int | BaseException]:
    async with asyncio.timeout(5):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_lone_item_is_written_at_once() -> None:
    writes = Writes()
    async with asyncio.timeout(5):
        assert await group_commit(writes).submit(3) == 6
    assert writes.batches == [[3]]


async def test_what_comes_during_a_write_shares_the_next_one_in_order() -> None:
    writes = Writes()
    group = group_commit(writes)
    writes.may_end.clear()
    tasks = await submitted(group, 1)
    await asyncio.sleep(0)
    tasks += await submitted(group, 5, 3, 4)
    tasks += await submitted(group, 2)
    assert writes.batches == [[1]]
    assert not any(task.done() for task in tasks)
    writes.may_end.set()
    assert await settled(tasks) == [2, 10, 6, 8, 4]
    assert writes.batches == [[1], [5, 3, 4, 2]]


async def test_a_batch_is_bounded() -> None:
    writes = Writes()
    tasks = await submitted(group_commit(writes, limit=2), 1, 2, 3, 4, 5)
    assert await settled(tasks) == [2, 4, 6, 8, 10]
    assert max(len(batch) for batch in writes.batches) == 2
    assert [item for batch in writes.batches for item in batch] == [1, 2, 3, 4, 5]


async def test_only_the_bad_item_fails() -> None:
    writes = Writes()
    writes.bad = {3}
    tasks = await submitted(group_commit(writes), 1, 2, 3, 4)
    *good, bad, last = await settled(tasks)
    assert (good, last) == ([2, 4], 8)
    assert isinstance(bad, BadItem)


async def test_a_bad_item_alone_is_written_once() -> None:
    writes = Writes()
    writes.bad = {1}
    assert isinstance((await settled(await submitted(group_commit(writes), 1)))[0], BadItem)
    assert writes.batches == [[1]]


async def test_an_error_that_is_nobodys_fault_hits_all_of_its_batch_and_no_other() -> None:
    writes = Writes()
    group = group_commit(writes)
    writes.away = True
    failed = await settled(await submitted(group, 1, 2, 3))
    assert [type(error) for error in failed] == [Away, Away, Away]
    assert writes.batches == [[1, 2, 3]]
    writes.away = False
    assert await settled(await submitted(group, 4)) == [8]


async def test_who_stops_waiting_harms_nobody_and_the_item_is_written_all_the_same() -> None:
    writes = Writes()
    group = group_commit(writes)
    writes.may_end.clear()
    tasks = await submitted(group, 1)
    await asyncio.sleep(0)
    tasks += await submitted(group, 2, 3)
    tasks[0].cancel()
    tasks[1].cancel()
    await asyncio.sleep(0)
    writes.may_end.set()
    first, second, third = await settled(tasks)
    assert isinstance(first, asyncio.CancelledError)
    assert isinstance(second, asyncio.CancelledError)
    assert third == 6
    assert writes.batches == [[1], [2, 3]]


async def test_an_error_after_somebody_stopped_waiting_reaches_the_others() -> None:
    writes = Writes()
    group = group_commit(writes)
    writes.away = True
    writes.may_end.clear()
    tasks = await submitted(group, 1, 2)
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.sleep(0)
    writes.may_end.set()
    assert isinstance((await settled(tasks))[1], Away)
    writes.away = False
    assert await settled(await submitted(group, 3)) == [6]


async def test_a_write_with_a_result_too_few_fails_instead_of_waiting_for_ever() -> None:
    async def loses_one(items: Sequence[int]) -> list[int]:
        return list(items)[1:]

    group = GroupCommit(loses_one, divides=lambda _: False, pace_s=0)
    assert [type(one) for one in await settled(await submitted(group, 1, 2))] == [ValueError] * 2


async def test_small_batches_keep_their_distance_and_the_first_goes_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writes, pauses = Writes(), list[float]()
    may_go_on = asyncio.Event()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await may_go_on.wait()

    group = GroupCommit(writes, divides=lambda _: False, pace_s=60)
    tasks = await submitted(group, 1)
    monkeypatch.setattr("ticketra.group_commit.asyncio.sleep", sleep)
    assert await settled(tasks) == [2]
    tasks = [asyncio.ensure_future(group.submit(item)) for item in (2, 3)]
    may_go_on.set()
    assert await settled(tasks) == [4, 6]
    assert writes.batches == [[1], [2, 3]]
    assert 0 < pauses[0] <= 60
