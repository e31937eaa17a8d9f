"""Turns: who may wait for what others have locked, and for how long one waits for that."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from booking.turns import WAITING_LIMIT, Turns
from ticketra.database import POOL_SIZE
from ticketra.errors import Busy

SHORT_S = 0.01


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    monkeypatch.setattr("booking.turns.TURN_WAIT_S", SHORT_S)
    return Turns()


async def has_turn(turns: Turns, event_id: str) -> bool:
    try:
        async with turns.take(event_id):
            return True
    except Busy:
        return False


async def test_of_an_event_one_has_the_turn_and_the_others_events_go_on(turns: Turns) -> None:
    async with turns.take("stuck"):
        assert not await has_turn(turns, "stuck")
        assert await has_turn(turns, "well")
    assert await has_turn(turns, "stuck")


async def test_all_events_together_have_fewer_turns_than_there_are_connections(
    turns: Turns,
) -> None:
    assert WAITING_LIMIT < POOL_SIZE
    async with AsyncExitStack() as stack:
        for number in range(WAITING_LIMIT):
            await stack.enter_async_context(turns.take(f"stuck-{number}"))
        assert not await has_turn(turns, "well")
        assert not await has_turn(turns, "well"), "one that gave up left nothing behind"
    assert await has_turn(turns, "well")


async def test_many_who_wait_for_one_event_take_one_of_the_turns_of_all() -> None:
    turns = Turns()
    async with turns.take("stuck"):
        waiting = [asyncio.create_task(has_turn(turns, "stuck")) for _ in range(20)]
        await asyncio.sleep(0)
        assert await has_turn(turns, "well")
    assert all(await asyncio.gather(*waiting))


async def test_what_fails_or_is_cancelled_gives_its_turn_back(turns: Turns) -> None:
    with pytest.raises(RuntimeError):
        async with turns.take("stuck"):
            raise RuntimeError
    async with turns.take("stuck"):
        waiting = asyncio.create_task(has_turn(turns, "stuck"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    for _ in range(2 * WAITING_LIMIT):
        assert await has_turn(turns, "stuck")
