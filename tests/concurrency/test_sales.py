"""A sale changes while two tasks sell its tickets.

The second half forces each of these races, with its guard and without it.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import psycopg
import pytest

from booking import sales
from booking.models import OutboxMessage, Sale, SaleTerms
from booking.sale_store import Decision, SaleStore
from tests.concurrency.meeting import MINT, UNLOCKED_SALE, drop_stock_check, until_blocked
from tests.concurrency.test_races import (
    READ_SALES,
    batch_stores,
    channels,
    commit,
    create_many,
    held_and_remaining,
    open_sale,
    request,
    take,
)
from tests.integration.booking_task import CREDENTIALS, BookingTask, booking_tasks, orders
from tests.integration.servers import Server
from ticketra import rpc
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.booking.v1 import booking_pb2_grpc as pb_grpc
from ticketra.database import Database
from ticketra.errors import Conflict

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
    assert closings_told(postgres, event_id) == 1


def closings_told(postgres: Server, event_id: str) -> int:
    with orders(postgres) as connection:
        row = connection.execute(
            "SELECT count(*) FROM outbox WHERE subject = %s AND routing_key = 'sale.closed'",
            [event_id],
        ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes away the lock under which a sale is changed."""
    monkeypatch.setattr("booking.sale_store.LOCK_SALE", UNLOCKED_SALE)


def put_terms(version: int, capacity: int) -> Decision:
    terms = SaleTerms(capacity, 0, "", None, None, 0, 0)
    return lambda sale: sales.change_terms(sale, version, terms)


async def change_together(
    postgres: Server,
    database: Database,
    event_id: str,
    *changes: tuple[Decision, OutboxMessage | None],
) -> list[Sale | None]:
    """Let all changes begin while the sale is locked, and then go on in their order."""
    store = SaleStore(database)
    with orders(postgres) as connection:
        with connection.transaction():
            connection.execute("SELECT FROM sales WHERE event_id = %s FOR UPDATE", [event_id])
            changing = []
            for count, (decision, message) in enumerate(changes, 1):
                changing.append(asyncio.create_task(store.change(event_id, decision, message)))
                await until_blocked(postgres, count)
        return await asyncio.gather(*changing)


async def test_older_terms_that_come_last_change_nothing(
    postgres: Server, database: Database, event_id: str
) -> None:
    open_sale(postgres, event_id, 10)
    newer, older = (put_terms(3, 30), None), (put_terms(2, 20), None)
    await change_together(postgres, database, event_id, newer, older)
    assert stored(postgres, event_id) == (3, 30, False)


@pytest.mark.usefixtures("unlocked")
async def test_without_the_lock_older_terms_replace_newer_ones(
    postgres: Server, database: Database, event_id: str
) -> None:
    """Negative control: both versions were compared with the one before them."""
    open_sale(postgres, event_id, 10)
    newer, older = (put_terms(3, 30), None), (put_terms(2, 20), None)
    await change_together(postgres, database, event_id, newer, older)
    assert stored(postgres, event_id) == (2, 20, False)


async def test_without_the_comparison_older_terms_replace_newer_ones(
    postgres: Server, database: Database, event_id: str
) -> None:
    """Negative control: the lock alone does not know which version is newer."""

    def older(sale: Sale) -> Sale | None:
        return put_terms(2, 20)(sale._replace(version=1))

    open_sale(postgres, event_id, 10)
    await change_together(postgres, database, event_id, (put_terms(3, 30), None), (older, None))
    assert stored(postgres, event_id) == (2, 20, False)


async def change_while_selling(
    postgres: Server, database: Database, event_id: str, decision: Decision
) -> str:
    """Sell 30 of 50 tickets in a batch that commits while the change waits for the sale.

    Returns the code of the refusal, or "changed".
    """
    open_sale(postgres, event_id, 50)
    batch = batch_stores(database)[0]
    taken = await take(batch, [request(event_id, f"user-{n}") for n in range(30)])
    changing = asyncio.create_task(SaleStore(database).change(event_id, decision))
    await until_blocked(postgres)
    await commit(batch, taken)
    await batch.close()
    try:
        await changing
    except Conflict as refusal:
        return refusal.code
    return "changed"


@pytest.mark.parametrize(
    ("capacity", "outcome"), [(20, ("capacity_below_sold", 20)), (60, ("changed", 30))]
)
async def test_a_capacity_counts_what_was_sold_while_it_waited(
    postgres: Server, database: Database, event_id: str, capacity: int, outcome: tuple[str, int]
) -> None:
    answer = await change_while_selling(postgres, database, event_id, put_terms(2, capacity))
    held, remaining = held_and_remaining(postgres, event_id)
    assert (answer, remaining) == outcome
    assert held == 30


@pytest.mark.usefixtures("unlocked")
@pytest.mark.parametrize("capacity", [20, 60])
async def test_without_the_lock_a_capacity_forgets_what_was_sold(
    postgres: Server, database: Database, event_id: str, capacity: int
) -> None:
    """Negative control: as many are put on sale again as were sold, within the CHECK."""
    decision = put_terms(2, capacity)
    assert await change_while_selling(postgres, database, event_id, decision) == "changed"
    assert stored(postgres, event_id)[1] == capacity
    assert held_and_remaining(postgres, event_id) == (30, capacity)


async def test_without_counting_what_is_taken_a_capacity_forgets_what_was_sold(
    postgres: Server, database: Database, event_id: str
) -> None:
    """Negative control: the lock alone does not know what is sold."""

    def uncounted(sale: Sale) -> Sale | None:
        return put_terms(2, 20)(sale._replace(remaining=sale.capacity))

    assert await change_while_selling(postgres, database, event_id, uncounted) == "changed"
    assert held_and_remaining(postgres, event_id) == (30, 20)


async def test_without_the_lock_of_a_batch_it_sells_what_was_taken_off_sale(
    own_postgres: Server, own_database: Database
) -> None:
    """Negative control from the batch's side: the CHECK stops it, and nothing does without."""

    async def sell_during_change(event_id: str) -> None:
        open_sale(own_postgres, event_id, 50)
        batch = batch_stores(own_database, READ_SALES)[0]
        try:
            taken = await take(batch, [request(event_id, f"user-{n}") for n in range(30)])
            await SaleStore(own_database).change(event_id, put_terms(2, 20))
            await commit(batch, taken)
        finally:
            await batch.close()

    with pytest.raises(psycopg.errors.CheckViolation):
        await sell_during_change("checked")
    assert held_and_remaining(own_postgres, "checked") == (0, 20)
    drop_stock_check(own_postgres)
    await sell_during_change("unchecked")
    assert held_and_remaining(own_postgres, "unchecked") == (30, -10)


def close(event_id: str, version: int) -> tuple[Decision, OutboxMessage]:
    message = OutboxMessage(MINT(), event_id, "sale.closed", "{}")
    return lambda sale: sales.close(sale, version), message


async def test_a_batch_that_has_the_lock_is_sold_before_the_sale_is_closed(
    postgres: Server, database: Database, event_id: str
) -> None:
    open_sale(postgres, event_id, 10)
    first, second = batch_stores(database)
    taken = await take(first, [request(event_id, "ada")])
    closing = asyncio.create_task(SaleStore(database).change(event_id, *close(event_id, 2)))
    await until_blocked(postgres)
    await commit(first, taken)
    closed = await closing
    assert closed is not None
    assert closed.remaining == 9, "whoever closes a sale learns of all that it sold"
    late = await take(second, [request(event_id, "bob")])
    assert late is not None
    assert late.accepted == []
    await first.close()
    await second.close()
    assert held_and_remaining(postgres, event_id) == (1, 9)


async def test_without_the_lock_a_batch_sells_after_the_sale_was_closed(
    postgres: Server, database: Database, event_id: str
) -> None:
    """Negative control: the batch read the sale while it was open."""
    open_sale(postgres, event_id, 10)
    batch = batch_stores(database, READ_SALES)[0]
    taken = await take(batch, [request(event_id, "ada")])
    closed = await SaleStore(database).change(event_id, *close(event_id, 2))
    assert closed is not None
    assert held_and_remaining(postgres, event_id) == (0, 10)
    await commit(batch, taken)
    await batch.close()
    assert held_and_remaining(postgres, event_id) == (1, 9)


@pytest.mark.usefixtures("unlocked")
async def test_without_its_lock_a_closing_puts_back_what_was_sold(
    postgres: Server, database: Database, event_id: str
) -> None:
    """Negative control: the closing writes the stock that it read before the batch committed."""
    decision, _ = close(event_id, 2)
    assert await change_while_selling(postgres, database, event_id, decision) == "changed"
    assert held_and_remaining(postgres, event_id) == (30, 50)


async def test_two_closings_are_told_once(
    postgres: Server, database: Database, event_id: str
) -> None:
    open_sale(postgres, event_id, 10)
    closings = close(event_id, 2), close(event_id, 3)
    await change_together(postgres, database, event_id, *closings)
    assert stored(postgres, event_id) == (2, 10, True)
    assert closings_told(postgres, event_id) == 1


@pytest.mark.usefixtures("unlocked")
async def test_without_the_lock_two_closings_are_told_twice(
    postgres: Server, database: Database, event_id: str
) -> None:
    """Negative control."""
    open_sale(postgres, event_id, 10)
    closings = close(event_id, 2), close(event_id, 3)
    await change_together(postgres, database, event_id, *closings)
    assert closings_told(postgres, event_id) == 2
