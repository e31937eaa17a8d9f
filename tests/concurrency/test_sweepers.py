"""Two sweepers race for the same due holds, and with confirmations and cancellations."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from booking import booking_store, bulk, transitions
from booking.booking_store import BookingStore, StateChanged
from booking.holds import Sweeper
from booking.models import Booking, Transition
from tests.concurrency.meeting import (
    LIMIT_S,
    UNCONDITIONAL_CHANGES,
    UNLOCKED_DUE,
    UNLOCKED_SALES_OF_DUE,
    MeetingStore,
    drop_stock_check,
)
from tests.integration.booking.due_holds import sell_out_with_due_holds
from tests.integration.booking_task import orders
from tests.integration.fixtures import opened
from tests.integration.servers import Server
from ticketra.database import Database
from ticketra.errors import Conflict
from ticketra.ids import IdSource

MINT = IdSource()
HOLD_TTL_S, HOLD_MAX_S = 600, 3600


@pytest.fixture
async def databases(postgres: Server) -> AsyncIterator[list[Database]]:
    """Two tasks' views of `postgres`."""
    async with opened(postgres) as first, opened(postgres) as second:
        yield [first, second]


def ledger(postgres: Server, event_prefix: str) -> list[tuple[int, int, int]]:
    """Return capacity, remaining and what is held of each sale."""
    with orders(postgres) as connection:
        return connection.execute(
            "SELECT capacity, remaining,"
            " (SELECT coalesce(sum(ticket_count), 0)::int FROM bookings AS b"
            "   WHERE b.event_id = sales.event_id AND status IN ('PENDING', 'CONFIRMED'))"
            " FROM sales WHERE event_id LIKE %s",
            [f"{event_prefix}-%"],
        ).fetchall()


async def end(store: BookingStore, booking_id: str, *, confirm: bool) -> bool:
    """Confirm or decline a booking, and say whether that is what became of it."""
    booking = await store.find(booking_id)
    assert booking is not None

    def decision(present: Booking, *_: object) -> Transition | None:
        if present.status == "EXPIRED":
            raise Conflict("booking_expired", "too late")
        if confirm:
            return transitions.confirm(present, None, 0)
        return transitions.decline(present, "no")

    for _ in range(50):
        try:
            _, transition = await store.change(booking, decision, "test", lock_sale=not confirm)
        except StateChanged:
            continue
        except Conflict:
            return False
        return transition is not None
    raise AssertionError("the booking never came to rest")


async def test_every_due_hold_ends_once(
    postgres: Server, databases: list[Database], event_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sold-out event with 1,000 due holds, fifty with 20 each; for 200, others try as well."""
    monkeypatch.setattr(booking_store, "EXPIRY_BATCH_LIMIT", 20)  # many batches, many chances
    due = sell_out_with_due_holds(postgres, f"{event_id}-hot", 1000)
    for number in range(50):
        due += sell_out_with_due_holds(postgres, f"{event_id}-{number}", 20)
    stores = [BookingStore(database, MINT) for database in databases]

    async def sweep(store: BookingStore) -> int:
        swept = 0
        sweeper = Sweeper(store, HOLD_TTL_S, HOLD_MAX_S, lambda: None)
        async with asyncio.timeout(60):
            while still_due(postgres, event_id):
                swept += await sweeper.sweep()
        return swept

    async def end_some(store: BookingStore, ids: list[str], *, confirm: bool) -> int:
        return [await end(store, booking_id, confirm=confirm) for booking_id in ids].count(True)

    confirmed, cancelled, *swept = await asyncio.gather(
        end_some(stores[0], due[::-20], confirm=True),
        end_some(stores[1], due[1::20], confirm=False),
        *(sweep(store) for store in stores),
    )
    assert confirmed + cancelled + sum(swept) == len(due)
    assert_each_ended_once(postgres, event_id, confirmed, cancelled, sum(swept))


def still_due(postgres: Server, event_prefix: str) -> bool:
    with orders(postgres) as connection:
        row = connection.execute(
            "SELECT FROM bookings WHERE event_id LIKE %s AND status = 'PENDING'",
            [f"{event_prefix}-%"],
        ).fetchone()
    return row is not None


def assert_each_ended_once(
    postgres: Server, event_prefix: str, confirmed: int, cancelled: int, swept: int
) -> None:
    with orders(postgres) as connection:
        states = connection.execute(
            "SELECT status, count(*) FROM bookings WHERE event_id LIKE %s GROUP BY status",
            [f"{event_prefix}-%"],
        ).fetchall()
        messages = connection.execute(
            "SELECT routing_key, count(*), count(DISTINCT subject) FROM outbox JOIN bookings"
            " ON subject = bookings.id::text WHERE event_id LIKE %s GROUP BY routing_key",
            [f"{event_prefix}-%"],
        ).fetchall()
    ended = Counter(CONFIRMED=confirmed, CANCELLED=cancelled, EXPIRED=swept)
    assert Counter(dict(states)) == ended
    # One message for each booking, and none twice.
    assert {(key, count, count) for key, count, _ in messages} == set(messages)
    assert Counter({key.split(".")[1].upper(): count for key, count, _ in messages}) == ended
    assert all(capacity == left + held for capacity, left, held in ledger(postgres, event_prefix))


async def race(postgres: Server) -> tuple[int, int, int]:
    """Let two sweepers expire the same 3 holds at once, and return the ledger."""
    sell_out_with_due_holds(postgres, "concert-hall", 3)
    meeting = asyncio.Barrier(2)
    async with opened(postgres) as first, opened(postgres) as second, asyncio.timeout(LIMIT_S):
        await asyncio.gather(
            *(
                MeetingStore(database, meeting).expire_due(
                    transitions.expire, HOLD_TTL_S, HOLD_MAX_S
                )
                for database in (first, second)
            )
        )
    [found] = ledger(postgres, "concert")
    return found


async def test_without_locks_the_condition_gives_the_tickets_back_once(
    own_postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(booking_store, "LOCK_SALES_OF_DUE", UNLOCKED_SALES_OF_DUE)
    monkeypatch.setattr(booking_store, "LOCK_DUE", UNLOCKED_DUE)
    assert await race(own_postgres) == (3, 3, 0)


async def test_without_locks_and_condition_the_tickets_come_back_twice(
    own_postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the tests above; the CHECK is the last guard, and is off as well."""
    monkeypatch.setattr(booking_store, "LOCK_SALES_OF_DUE", UNLOCKED_SALES_OF_DUE)
    monkeypatch.setattr(booking_store, "LOCK_DUE", UNLOCKED_DUE)
    monkeypatch.setattr(bulk, "CHANGE_BOOKINGS", UNCONDITIONAL_CHANGES)
    drop_stock_check(own_postgres)
    assert await race(own_postgres) == (3, 6, 0)
