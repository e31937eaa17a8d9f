"""A sale changes while two tasks sell its tickets."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.concurrency.test_races import channels, create_many, held_and_remaining
from tests.integration.booking_task import CREDENTIALS, BookingTask, booking_tasks, orders
from tests.integration.servers import Server
from ticketra import rpc
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.booking.v1 import booking_pb2_grpc as pb_grpc

EVENT = rpc.caller_metadata("event", CREDENTIALS["event"])
REOPENING_LIMIT_S = 10.0


@pytest.fixture
def tasks(
    postgres: Server, redis: Server, rabbitmq: Server, tmp_path: Path
) -> Iterator[list[BookingTask]]:
    with booking_tasks(postgres, redis, rabbitmq, tmp_path, count=2) as running:
        yield running


def wishes(event_id: str, count: int) -> list[pb.CreateBookingRequest]:
    return [
        pb.CreateBookingRequest(event_id=event_id, user_id=f"user-{n}", ticket_count=1)
        for n in range(count)
    ]


async def put(
    stub: "pb_grpc.BookingServiceAsyncStub", event_id: str, version: int, capacity: int
) -> pb.Sale | str:
    """Put terms in force, and return the sale, or the code of the refusal."""
    request = pb.PutSaleRequest(
        event_id=event_id, version=version, terms=pb.SaleTerms(capacity=capacity)
    )
    try:
        return await stub.PutSale(request, metadata=EVENT, timeout=30)
    except grpc.aio.AioRpcError as error:
        refusal = rpc.to_refusal(error)
        return refusal.code if refusal else str(error.code())


def stored(postgres: Server, event_id: str) -> tuple[int, int, bool]:
    """Return version, capacity and whether the sale is closed."""
    with orders(postgres) as connection:
        row = connection.execute(
            "SELECT version, capacity, closed FROM sales WHERE event_id = %s", [event_id]
        ).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


def sold(answers: list[pb.CreateBookingResponse | str]) -> int:
    return sum(not isinstance(answer, str) for answer in answers)


async def test_the_newest_terms_win_in_whatever_order_they_come(
    tasks: list[BookingTask], postgres: Server, event_id: str
) -> None:
    versions = list(range(1, 41))
    random.Random(event_id).shuffle(versions)
    async with channels(tasks) as stubs:
        changing = asyncio.gather(
            *(
                put(stubs[n % len(stubs)], event_id, version, 100 + version)
                for n, version in enumerate(versions)
            )
        )
        selling = create_many(tasks, wishes(event_id, 200))
        sales, answers = await asyncio.gather(changing, selling)
    assert not [sale for sale in sales if isinstance(sale, str)]
    assert stored(postgres, event_id) == (40, 140, False)
    held, remaining = held_and_remaining(postgres, event_id)
    assert held == sold(answers)
    assert held + remaining == 140
    assert {a for a in answers if isinstance(a, str)} <= {"event_not_found", "sold_out"}


async def test_a_capacity_is_lowered_before_the_tickets_are_sold_or_not_at_all(
    tasks: list[BookingTask], postgres: Server, event_id: str
) -> None:
    async with channels(tasks) as stubs:
        await put(stubs[0], event_id, 1, 50)
        answers, lowered, again = await asyncio.gather(
            create_many(tasks, wishes(event_id, 100)),
            put(stubs[1], event_id, 2, 20),
            put(stubs[2], event_id, 3, 20),
        )
        refused = [answer for answer in (lowered, again) if isinstance(answer, str)]
        assert set(refused) <= {"capacity_below_sold"}
        capacity = 50 if len(refused) == 2 else 20
        assert stored(postgres, event_id)[1] == capacity
        assert sold(answers) == capacity
        assert held_and_remaining(postgres, event_id) == (capacity, 0)
        assert await put(stubs[3], event_id, 4, capacity - 1) == "capacity_below_sold"
    assert held_and_remaining(postgres, event_id) == (capacity, 0)


async def test_a_raised_capacity_is_sold_by_both_tasks(
    tasks: list[BookingTask], postgres: Server, event_id: str
) -> None:
    async with channels(tasks) as stubs:
        await put(stubs[0], event_id, 1, 10)
        answers = await create_many(tasks, wishes(event_id, 100))
        assert Counter(a for a in answers if isinstance(a, str)) == {"sold_out": 90}
        raised = await put(stubs[0], event_id, 2, 30)
        assert isinstance(raised, pb.Sale)
        assert (raised.terms.capacity, raised.remaining) == (30, 20)
        async with asyncio.timeout(REOPENING_LIMIT_S):
            while held_and_remaining(postgres, event_id)[0] < 30:
                await create_many(tasks, wishes(event_id, 40))
    assert held_and_remaining(postgres, event_id) == (30, 0)


async def test_nothing_is_sold_after_a_sale_was_closed(
    tasks: list[BookingTask], postgres: Server, event_id: str
) -> None:
    async def close(stub: "pb_grpc.BookingServiceAsyncStub", version: int) -> int:
        """Close the sale, and return what was held when the answer came."""
        request = pb.CloseSaleRequest(event_id=event_id, version=version)
        sale = await stub.CloseSale(request, metadata=EVENT, timeout=30)
        assert sale.closed
        return held_and_remaining(postgres, event_id)[0]

    async with channels(tasks) as stubs:
        await put(stubs[0], event_id, 1, 10_000)
        selling = asyncio.create_task(create_many(tasks, wishes(event_id, 600)))
        held_at_closing = await asyncio.gather(*(close(stubs[n], 2 + n) for n in range(len(stubs))))
        answers = await selling
        assert await put(stubs[0], event_id, 100, 20_000) == "sale_closed"
    held, remaining = held_and_remaining(postgres, event_id)
    assert set(held_at_closing) == {held}
    assert sold(answers) == held
    assert held + remaining == 10_000
    assert {a for a in answers if isinstance(a, str)} <= {"sale_not_open"}
    with orders(postgres) as connection:
        told = connection.execute(
            "SELECT count(*) FROM outbox WHERE subject = %s AND routing_key = 'sale.closed'",
            [event_id],
        ).fetchone()
    assert told == (1,)
