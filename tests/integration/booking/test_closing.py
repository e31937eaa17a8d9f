"""Closed sales: their bookings end once, whatever dies or is in the way."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from booking import closing
from booking.bookings import Bookings
from booking.closing import Closer
from booking.closing_store import FIND_HOLDING, ClosingStore
from booking.sale_store import SaleStore
from tests.integration.booking.sold_sales import ended, look, sell
from tests.integration.booking.test_contract import refused
from tests.integration.booking_task import Client, booking_tasks, orders
from tests.integration.fixtures import opened
from tests.integration.servers import Server
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.database import Database
from ticketra.ids import IdSource

LIMIT_S = 60


def closer(database: Database) -> Closer:
    return Closer(ClosingStore(database, IdSource()), lambda: None)


def close_by_hand(postgres: Server, *event_ids: str) -> None:
    with orders(postgres) as connection:
        connection.execute(
            "UPDATE sales SET closed = true WHERE event_id = ANY(%s)", [list(event_ids)]
        )


async def test_the_bookings_of_a_closed_sale_end_and_no_others(
    postgres: Server, database: Database, event_id: str
) -> None:
    open_sale = f"{event_id}-open"
    sell(postgres, open_sale, 4)
    before = look(postgres, open_sale)
    sell(postgres, event_id, 7, tickets=3, closed=True)
    assert await closer(database).close() == 7
    assert look(postgres, event_id) == ended(7, tickets=3)
    assert look(postgres, open_sale) == before
    assert await closer(database).close() == 0


async def test_bookings_that_had_ended_stay_as_they_were(
    postgres: Server, database: Database, event_id: str
) -> None:
    first, second = sell(postgres, event_id, 2)
    with orders(postgres) as connection:
        connection.execute("UPDATE bookings SET status = 'EXPIRED' WHERE id = %s", [first])
        connection.execute(
            "UPDATE bookings SET status = 'CANCELLED', payment_status = 'refunded',"
            " reason = 'before' WHERE id = %s",
            [second],
        )
        connection.execute("UPDATE sales SET remaining = 2 WHERE event_id = %s", [event_id])
    close_by_hand(postgres, event_id)
    assert await closer(database).close() == 0
    found = look(postgres, event_id)
    assert found.bookings == {("EXPIRED", "pending", ""): 1, ("CANCELLED", "refunded", "before"): 1}
    assert (found.remaining, found.bookings_ended, found.messages) == (2, True, {})


async def test_more_tickets_than_a_transaction_can_write_are_ended_in_several(
    postgres: Server, database: Database, event_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("booking.groups.TICKETS_AT_ONCE", 15)
    sell(postgres, event_id, 40, tickets=3, closed=True)
    store = ClosingStore(database, IdSource())
    assert await store.end_some(event_id, closing._end, wait=False) == (5, True)
    assert not look(postgres, event_id).bookings_ended
    assert await closer(database).close() == 35
    assert look(postgres, event_id) == ended(40, tickets=3)


async def test_a_batch_that_is_just_full_is_followed_by_one_that_notes_the_end(
    postgres: Server, database: Database, event_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("booking.closing_store.CLOSING_BATCH_LIMIT", 4)
    sell(postgres, event_id, 4, closed=True)
    store = ClosingStore(database, IdSource())
    assert await store.end_some(event_id, closing._end, wait=False) == (4, True)
    assert await store.end_some(event_id, closing._end, wait=False) == (0, False)
    assert look(postgres, event_id) == ended(4)


async def test_a_sale_that_others_keep_locked_stalls_no_other(
    postgres: Server, database: Database, event_id: str
) -> None:
    events = [f"{event_id}-{number}" for number in range(3)]
    for event in events:
        sell(postgres, event, 2, closed=True)
    with orders(postgres) as connection, connection.transaction():
        connection.execute("SELECT FROM sales WHERE event_id = %s FOR UPDATE", [events[0]])
        store = ClosingStore(database, IdSource())
        assert await store.end_some(events[0], closing._end, wait=False) is None
        assert await closer(database).close() == 4
        assert not look(postgres, events[0]).bookings_ended
    assert await closer(database).close() == 2
    assert [look(postgres, event) for event in events] == [ended(2)] * 3


async def test_a_sale_that_is_often_locked_is_waited_for(
    postgres: Server, database: Database, event_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("booking.closing_store.SALE_WAIT_LIMIT_MS", 20_000)
    sell(postgres, event_id, 2, closed=True)
    with orders(postgres) as connection:
        with connection.transaction():
            connection.execute("SELECT FROM sales WHERE event_id = %s FOR UPDATE", [event_id])
            closing_it = asyncio.create_task(closer(database).close())
            await until_waiting(postgres)
        assert await closing_it == 2


async def until_waiting(postgres: Server) -> None:
    with orders(postgres) as connection:
        async with asyncio.timeout(LIMIT_S):
            while not connection.execute(  # noqa: ASYNC110 - nobody tells
                "SELECT FROM pg_stat_activity WHERE application_name = 'booking'"
                " AND wait_event_type = 'Lock'"
            ).fetchall():
                await asyncio.sleep(0.01)


async def test_two_closers_end_each_booking_once(
    postgres: Server, event_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("booking.closing_store.CLOSING_BATCH_LIMIT", 5)
    events = [f"{event_id}-{number}" for number in range(4)]
    for event in events:
        sell(postgres, event, 50, closed=True)
    async with opened(postgres) as first, opened(postgres) as second:
        closers = [closer(first), closer(second)]
        counts = [0, 0]
        async with asyncio.timeout(LIMIT_S):
            while not all(look(postgres, event).bookings_ended for event in events):
                done = await asyncio.gather(*(one.close() for one in closers))
                counts = [a + b for a, b in zip(counts, done, strict=True)]
    assert sum(counts) == 200
    assert all(counts)
    assert [look(postgres, event) for event in events] == [ended(50)] * 4


async def test_closing_a_sale_wakes_the_closer(
    postgres: Server, database: Database, event_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "CLOSING_INTERVAL_S", 3600)
    sell(postgres, event_id, 2)
    woken = closer(database)
    running = asyncio.create_task(woken.run())
    nothing: Any = None
    bookings = Bookings(
        nothing,
        nothing,
        nothing,
        SaleStore(database),
        markers=nothing,
        mint_id=IdSource(),
        hold_ttl=nothing,
        hold_max=nothing,
        on_commit=lambda: None,
        on_close=woken.wake,
    )
    await bookings.close_sale(event_id, 2, "test")
    async with asyncio.timeout(LIMIT_S):
        while not look(postgres, event_id).bookings_ended:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def test_closing_a_sale_cancels_its_bookings_and_a_late_payment_is_refunded(
    client: Client, event_id: str, postgres: Server
) -> None:
    client.put_sale(event_id, 10)
    held, sold = client.create(event_id, 2).booking, client.create(event_id, 3).booking
    client.confirm(sold.id)
    client.close_sale(event_id)
    deadline = time.monotonic() + LIMIT_S
    while not look(postgres, event_id).bookings_ended:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.remaining(event_id) == 10
    assert client.get(held.id).status == pb.BOOKING_STATUS_CANCELLED
    assert client.get(held.id).payment_status == pb.PAYMENT_STATUS_PENDING
    assert client.get(sold.id).payment_status == pb.PAYMENT_STATUS_REFUNDING
    with refused("booking_cancelled"):
        client.confirm(held.id)
    for booking in (held, sold):
        assert client.get(booking.id).payment_status == pb.PAYMENT_STATUS_REFUNDING
        assert client.record_refund(booking.id).payment_status == pb.PAYMENT_STATUS_REFUNDED
    with refused("sale_not_open"):
        client.create(event_id)


def test_ten_thousand_bookings_end_once_though_the_task_is_killed_in_the_middle(
    own_postgres: Server, redis: Server, rabbitmq: Server, tmp_path: Path
) -> None:
    ids = sell(own_postgres, "arena", 10_000)
    with booking_tasks(own_postgres, redis, rabbitmq, tmp_path) as (task,):
        # Whoever holds this booking lets the task come to it, and no further.
        with orders(own_postgres) as holder, holder.transaction():
            holder.execute("SELECT FROM bookings WHERE id = %s FOR UPDATE", [ids[4_999]])
            with task.channel() as channel:
                Client(channel).close_sale("arena")
            until_locked_out(own_postgres, cancelled=4_500)
            task.kill()
        half_done = look(own_postgres, "arena")
        assert half_done.remaining == 4_500
        assert not half_done.bookings_ended
        task.start()
        deadline = time.monotonic() + LIMIT_S
        while not look(own_postgres, "arena").bookings_ended:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert look(own_postgres, "arena") == ended(10_000)
    with orders(own_postgres) as connection:
        assert connection.execute(
            "SELECT count(*), count(DISTINCT subject) FROM outbox"
            " WHERE routing_key = 'booking.cancelled'"
        ).fetchone() == (10_000, 10_000)


def until_locked_out(postgres: Server, *, cancelled: int) -> None:
    """Return when so many bookings are cancelled, and a batch waits for the next one's lock."""
    deadline = time.monotonic() + LIMIT_S
    with orders(postgres) as connection:
        while True:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM bookings WHERE status = 'CANCELLED'),"
                " (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'booking'"
                "   AND wait_event_type = 'Lock')"
            ).fetchone()
            if row == (cancelled, 1):
                return
            assert time.monotonic() < deadline, row
            time.sleep(0.01)


def test_each_batch_reads_its_bookings_from_the_index(own_postgres: Server) -> None:
    """Neither those of other events nor those that have ended are read for each batch."""
    sell(own_postgres, "arena", 5_000, closed=True)
    sell(own_postgres, "bar", 1_000)
    with orders(own_postgres) as connection:
        connection.execute("ANALYZE bookings")
        plan = "\n".join(
            row[0] for row in connection.execute(f"EXPLAIN {FIND_HOLDING}", ["arena", 500])
        )
    assert "Index Scan using bookings_holding" in plan
    assert "Sort" not in plan
