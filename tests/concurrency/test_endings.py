"""A held booking of a closed sale is confirmed, cancelled, declined, expired and closed at once."""

import asyncio
from contextlib import suppress

import pytest

from booking import (
    booking_store,
    bulk,
    closing_store,
    group_store,
    sale_group_store,
    transitions,
)
from booking.booking_store import BookingStore, StateChanged
from booking.closing_store import ClosingStore
from booking.group_store import GroupStore
from booking.groups import Wish
from booking.models import Booking
from booking.sale_group_store import SaleGroupStore
from booking.transitions import EVENT_CANCELLED
from tests.concurrency import books
from tests.concurrency.meeting import (
    LIMIT_S,
    MINT,
    UNCONDITIONAL_CHANGE,
    UNCONDITIONAL_CHANGES,
    UNLOCKED_BOOKING,
    UNLOCKED_CLOSING,
    UNLOCKED_DUE,
    UNLOCKED_GROUP,
    UNLOCKED_HOLDING,
    UNLOCKED_SALE,
    UNLOCKED_SALES_OF_DUE,
    MeetingClosing,
    MeetingGroups,
    MeetingSaleGroups,
    MeetingStore,
    drop_stock_check,
)
from tests.integration.booking_task import orders
from tests.integration.servers import Server
from ticketra.database import Database
from ticketra.errors import Conflict

TICKETS = 2

CLOSED_SALE = """
INSERT INTO sales (event_id, version, capacity, remaining, price_amount_minor, price_currency,
                   max_per_booking, max_per_user, closed)
VALUES (%(event)s, 1, %(tickets)s, 0, 0, '', 0, 0, true)
"""
DUE_BOOKING = """
INSERT INTO bookings (id, event_id, user_id, ticket_count, amount_minor, currency, status,
                      payment_status, hold_expires_at, created_at, updated_at)
VALUES (gen_random_uuid(), %(event)s, 'ada', %(tickets)s, 0, '', 'PENDING', 'pending',
        now(), now(), now())
RETURNING id::text
"""
MESSAGES = """
INSERT INTO outbox (id, subject, routing_key, body)
VALUES (%(booking)s::uuid, %(booking)s, 'booking.created', json_build_object(
            'event_id', %(event)s::text, 'booking_id', %(booking)s::text,
            'ticket_count', %(tickets)s::integer)),
       (gen_random_uuid(), %(event)s, 'sale.closed', json_build_object('event_id', %(event)s::text))
"""


async def due_booking(postgres: Server, database: Database, event_id: str) -> Booking:
    """Make a booking that is due, of all tickets of a sale that has just been closed."""
    names = {"event": event_id, "tickets": TICKETS}
    with orders(postgres) as connection:
        connection.execute(CLOSED_SALE, names)
        [booking_id] = connection.execute(DUE_BOOKING, names).fetchone() or [""]
        connection.execute(MESSAGES, names | {"booking": booking_id})
        connection.execute("UPDATE outbox SET published_at = now()")
    found = await BookingStore(database, MINT).find(booking_id)
    assert found is not None
    return found


async def race(
    booking: Booking,
    store: BookingStore,
    groups: GroupStore,
    sale_groups: SaleGroupStore,
    closing: ClosingStore,
) -> None:
    async def cancel() -> None:
        with suppress(StateChanged, Conflict):
            await store.change(
                booking, lambda b, *_: transitions.cancel(b, "no"), "test", lock_sale=True
            )

    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(
            cancel(),
            groups.change([Wish(booking.id, transitions.confirm, "test")]),
            sale_groups.change(
                booking.event_id,
                [Wish(booking.id, lambda b, *_: transitions.decline(b, "no"), "test")],
            ),
            store.expire_due(transitions.expire, 600, 3600),
            closing.end_some(
                booking.event_id, lambda b: transitions.cancel(b, EVENT_CANCELLED), wait=False
            ),
        )


def check(postgres: Server, booking: Booking) -> list[str]:
    """Have the books judged, and return what the world was told of the booking."""
    with orders(postgres) as connection:
        found = books.read(connection, [booking.event_id])
    books.check(found)
    return found.history(booking.id)


@pytest.mark.parametrize("attempt_number", range(10))
async def test_whatever_ends_it_the_books_are_right(
    postgres: Server, database: Database, event_id: str, attempt_number: int
) -> None:
    booking = await due_booking(postgres, database, event_id)
    closing = ClosingStore(database, MINT)
    await race(
        booking,
        BookingStore(database, MINT),
        GroupStore(database, MINT),
        SaleGroupStore(database, MINT),
        closing,
    )
    assert len(check(postgres, booking)) in {2, 3}
    await closing.end_some(event_id, lambda b: transitions.cancel(b, EVENT_CANCELLED), wait=True)
    assert check(postgres, booking)[-1] in {"booking.cancelled", "booking.expired"}


@pytest.fixture
def unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes away all locks, so that all may read before anybody writes."""
    monkeypatch.setattr(booking_store, "LOCK_SALE", UNLOCKED_SALE)
    monkeypatch.setattr(booking_store, "LOCK_SALES_OF_DUE", UNLOCKED_SALES_OF_DUE)
    monkeypatch.setattr(booking_store, "LOCK_DUE", UNLOCKED_DUE)
    monkeypatch.setattr(closing_store, "LOCK_FREE_SALE", UNLOCKED_CLOSING)
    monkeypatch.setattr(closing_store, "LOCK_HOLDING", UNLOCKED_HOLDING)
    monkeypatch.setattr(group_store, "LOCK_FREE_BOOKINGS", UNLOCKED_GROUP)
    monkeypatch.setattr(sale_group_store, "LOCK_FREE_BOOKINGS", UNLOCKED_GROUP)


async def race_unlocked(database: Database, booking: Booking, **statements: str) -> None:
    meeting = asyncio.Barrier(5)
    await race(
        booking,
        MeetingStore(database, meeting, lock_booking=UNLOCKED_BOOKING, **statements),
        MeetingGroups(database, meeting),
        MeetingSaleGroups(database, meeting),
        MeetingClosing(database, meeting),
    )


@pytest.mark.usefixtures("unlocked")
async def test_without_the_locks_the_conditions_let_one_ending_happen(
    own_postgres: Server, own_database: Database
) -> None:
    booking = await due_booking(own_postgres, own_database, "concert")
    await race_unlocked(own_database, booking)
    assert len(check(own_postgres, booking)) == 2


@pytest.mark.usefixtures("unlocked")
async def test_without_locks_and_conditions_the_books_are_wrong(
    own_postgres: Server, own_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the tests above; the CHECK is off as well."""
    monkeypatch.setattr(bulk, "CHANGE_BOOKINGS", UNCONDITIONAL_CHANGES)
    drop_stock_check(own_postgres)
    booking = await due_booking(own_postgres, own_database, "concert")
    await race_unlocked(own_database, booking, change_booking=UNCONDITIONAL_CHANGE)
    with pytest.raises(AssertionError, match="concert"):
        check(own_postgres, booking)
    with orders(own_postgres) as connection:
        row = connection.execute("SELECT remaining FROM sales").fetchone()
    assert row == (4 * TICKETS,), "the tickets came back four times"
