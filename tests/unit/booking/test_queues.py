"""The waiting lines: bounded, in order, fair."""

import asyncio

import pytest

from booking.queues import EventQueues, QueueFull, Waiting
from tests.unit.booking.builders import request


async def waiting(event_id: str = "a", deadline: float = 10) -> Waiting:
    future = asyncio.get_running_loop().create_future()
    return Waiting(request(event_id=event_id), future, deadline)


async def test_requests_of_an_event_keep_their_order_also_when_put_back() -> None:
    queues = EventQueues()
    line = [await waiting() for _ in range(4)]
    for one in line:
        queues.add(one)
    taken = queues.take(2)
    queues.put_back(taken)
    assert queues.take(10) == line
    assert len(queues) == 0


async def test_both_limits_refuse() -> None:
    queues = EventQueues(event_limit=2, total_limit=3)
    for event_id in ("a", "a", "b"):
        queues.add(await waiting(event_id))
    with pytest.raises(QueueFull):
        queues.add(await waiting("c"))
    queues.take(1)
    another = await waiting("a")
    queues.add(another)
    with pytest.raises(QueueFull):
        queues.add(another)


async def test_short_lines_are_not_starved_by_a_long_one() -> None:
    queues = EventQueues()
    for _ in range(100):
        queues.add(await waiting("hot"))
    for number in range(5):
        queues.add(await waiting(f"cold{number}"))
    events = [one.request.event_id for one in queues.take(20)]
    assert {f"cold{number}" for number in range(5)} <= set(events)
    assert events.count("hot") == 15


async def test_what_was_not_served_comes_first_the_next_time() -> None:
    queues = EventQueues()
    for event_id in ("a", "a", "b", "c"):
        queues.add(await waiting(event_id))
    first = {one.request.event_id for one in queues.take(2)}
    second = {one.request.event_id for one in queues.take(2)}
    assert first == {"a", "b"}
    assert "c" in second


async def test_a_parked_event_waits_and_the_others_go_on() -> None:
    queues = EventQueues()
    for event_id in ("a", "b"):
        queues.add(await waiting(event_id))
    queues.park("a")
    assert [one.request.event_id for one in queues.take(10)] == ["b"]
    queues.unpark("a")
    assert [one.request.event_id for one in queues.take(10)] == ["a"]


async def test_late_requests_leave_the_line() -> None:
    queues = EventQueues()
    early, late = await waiting(deadline=1), await waiting(deadline=5)
    queues.add(late)
    queues.add(early)
    assert queues.take_expired(2) == [early]
    assert queues.take(10) == [late]
