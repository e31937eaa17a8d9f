"""Holds that are extended because their payment is in flight."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial

import grpc
import psycopg
import pytest

from booking import transitions
from booking.booking_store import EXTEND_HOLD, LOCK_HOLD, BookingStore
from booking.holds import Sweeper
from booking.models import CANCELLED, CONFIRMED, EXPIRED, PENDING, Booking
from payment.bookings import Bookings as PaymentsView
from tests.integration.booking.test_contract import outbox, refused
from tests.integration.booking_task import CREDENTIALS, BookingTask, Client, call_as, orders
from tests.integration.fixtures import opened
from tests.integration.servers import Server
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.database import Database
from ticketra.ids import IdSource

HOLD_TTL, HOLD_MAX = timedelta(minutes=10), timedelta(hours=1)
RACES = 24
TICKETS = 2

MAKE_SALE = """
INSERT INTO sales (event_id, version, capacity, remaining, price_amount_minor, price_currency,
                   max_per_booking, max_per_user)
VALUES (%(event_id)s, 1, %(tickets)s, 0, 0, '', 0, 0)
"""
MAKE_HOLD = """
INSERT INTO bookings (id, event_id, user_id, ticket_count, amount_minor, currency, status,
                      payment_status, hold_expires_at, created_at, updated_at)
VALUES (gen_random_uuid(), %(event_id)s, 'ada', %(tickets)s, 0, '', 'PENDING', 'pending',
        now() + %(left)s, now() - %(age)s, now() - %(age)s)
RETURNING id::text
"""
EXPIRE = "UPDATE bookings SET status = 'EXPIRED' WHERE id = %s AND status = 'PENDING'"
WAITS_FOR_A_LOCK = """
SELECT FROM pg_stat_activity WHERE application_name = 'booking' AND wait_event_type = 'Lock'
"""

extension = partial(transitions.extended_hold, hold_ttl=HOLD_TTL, hold_max=HOLD_MAX)


def hold(
    postgres: Server,
    event_id: str,
    *,
    left: timedelta = timedelta(seconds=30),
    age: timedelta = timedelta(minutes=9),
) -> str:
    """Make a sale and a booking of all its tickets, which are held for `left`."""
    values = {"event_id": event_id, "tickets": TICKETS, "left": left, "age": age}
    with orders(postgres) as connection:
        connection.execute(MAKE_SALE, values)
        row = connection.execute(MAKE_HOLD, values).fetchone()
    assert row is not None
    booking_id: str = row[0]
    return booking_id


def stored(postgres: Server, booking_id: str) -> tuple[str, datetime, datetime, datetime]:
    """Return a booking's status, the end of its hold, when it was made, and the time now."""
    with orders(postgres) as connection:
        row = connection.execute(
            "SELECT status, hold_expires_at, created_at, now() FROM bookings WHERE id = %s",
            [booking_id],
        ).fetchone()
    assert row is not None
    return row[0], row[1], row[2], row[3]


def remaining(postgres: Server, event_id: str) -> int:
    with orders(postgres) as connection:
        row = connection.execute(
            "SELECT remaining FROM sales WHERE event_id = %s", [event_id]
        ).fetchone()
    assert row is not None
    left: int = row[0]
    return left


@pytest.fixture(autouse=True)
def leaves_nothing_due(postgres: Server, event_id: str) -> Iterator[None]:
    """Let no hold of the test end while another test counts what ends."""
    yield
    with orders(postgres) as connection:
        connection.execute(
            "UPDATE bookings SET hold_expires_at = now() + interval '1 day'"
            " WHERE starts_with(event_id, %s) AND status = 'PENDING'",
            [event_id],
        )


@pytest.fixture
def store(database: Database) -> BookingStore:
    return BookingStore(database, IdSource())


@pytest.fixture
async def sweeper(store: BookingStore) -> Sweeper:
    """A sweeper to which other tests have left nothing."""
    ttl_s, max_s = int(HOLD_TTL.total_seconds()), int(HOLD_MAX.total_seconds())
    sweeper = Sweeper(store, ttl_s, max_s, lambda: None)
    await sweeper.sweep()
    return sweeper


def test_a_hold_is_extended_from_now_on_and_nobody_is_told(
    client: Client, event_id: str, postgres: Server
) -> None:
    booking_id = hold(postgres, event_id)
    earliest = stored(postgres, booking_id)[-1] + HOLD_TTL
    said = client.extend_hold(booking_id)
    status, until, _, now = stored(postgres, booking_id)
    assert status == PENDING
    assert earliest <= until <= now + HOLD_TTL
    assert said == client.get(booking_id)
    assert said.status == pb.BOOKING_STATUS_PENDING
    assert said.hold_expires_at.ToDatetime(tzinfo=until.tzinfo) == until
    assert outbox(postgres, booking_id) == []
    assert client.remaining(event_id) == 0


def test_a_hold_is_extended_up_to_its_limit(
    client: Client, event_id: str, postgres: Server
) -> None:
    booking_id = hold(postgres, event_id, age=HOLD_MAX - timedelta(minutes=2))
    for _ in range(2):
        client.extend_hold(booking_id)
        _, until, created_at, _ = stored(postgres, booking_id)
        assert until == created_at + HOLD_MAX


@pytest.mark.parametrize("status", [CONFIRMED, CANCELLED, EXPIRED])
def test_a_booking_that_is_not_pending_is_answered_as_it_is(
    client: Client, event_id: str, postgres: Server, status: str
) -> None:
    booking_id = hold(postgres, event_id)
    with orders(postgres) as connection:
        connection.execute(
            "UPDATE bookings SET status = %s, payment_status = 'paid' WHERE id = %s",
            [status, booking_id],
        )
    before = client.get(booking_id)
    assert client.extend_hold(booking_id) == before
    assert client.get(booking_id) == before
    assert before.status == pb.BookingStatus.Value(f"BOOKING_STATUS_{status}")


@pytest.mark.parametrize("caller", ["gateway", "event"])
def test_only_payment_may_extend_a_hold(
    client: Client, event_id: str, postgres: Server, caller: str
) -> None:
    booking_id = hold(postgres, event_id)
    before = stored(postgres, booking_id)[1]
    with refused("caller_not_allowed", grpc.StatusCode.PERMISSION_DENIED):
        client.stub.ExtendHold(pb.ExtendHoldRequest(id=booking_id), **call_as(caller))
    assert stored(postgres, booking_id)[1] == before


@asynccontextmanager
async def payments_view(task: BookingTask) -> AsyncIterator[PaymentsView]:
    bookings = PaymentsView(task.address, CREDENTIALS["payment"])
    try:
        yield bookings
    finally:
        await bookings.close()


async def test_the_payment_worker_understands_the_answers(
    task: BookingTask, client: Client, event_id: str, postgres: Server
) -> None:
    booking_id = uuid.UUID(hold(postgres, event_id))
    async with payments_view(task) as bookings:
        assert await bookings.extend_hold(booking_id, "r") == ""
        assert "no such booking" in await bookings.extend_hold(uuid.uuid4(), "r")
        client.cancel(str(booking_id))
        assert "cancelled" in await bookings.extend_hold(booking_id, "r")
        assert client.get(str(booking_id)).payment_status == pb.PAYMENT_STATUS_PENDING
        await bookings.release(booking_id, "The booking was cancelled before it was paid.", "r")
    ended = client.get(str(booking_id))
    assert ended.payment_status == pb.PAYMENT_STATUS_DECLINED
    assert ended.reason == "changed my mind"


async def test_a_hold_that_is_over_and_not_swept_is_extended_and_survives_the_sweep(
    postgres: Server, event_id: str, store: BookingStore, sweeper: Sweeper
) -> None:
    booking_id = hold(postgres, event_id, left=-timedelta(seconds=5))
    extended = await store.extend_hold(await found(store, booking_id), extension)
    assert await sweeper.sweep() == 0
    status, until, _, _ = stored(postgres, booking_id)
    assert (status, until) == (PENDING, extended.hold_expires_at)
    assert await store.find(booking_id) == extended


async def test_a_hold_at_its_limit_is_not_kept_from_the_sweep(
    postgres: Server, event_id: str, store: BookingStore, sweeper: Sweeper
) -> None:
    booking_id = hold(postgres, event_id, left=-timedelta(seconds=5), age=HOLD_MAX)
    await store.extend_hold(await found(store, booking_id), extension)
    assert await sweeper.sweep() == 1
    assert stored(postgres, booking_id)[0] == EXPIRED
    assert remaining(postgres, event_id) == TICKETS


async def test_an_extension_waits_for_no_sale(
    postgres: Server, event_id: str, store: BookingStore
) -> None:
    booking = await found(store, hold(postgres, event_id))
    with orders(postgres) as connection, connection.transaction():
        connection.execute("SELECT FROM sales WHERE event_id = %s FOR UPDATE", [event_id])
        extended = await asyncio.wait_for(store.extend_hold(booking, extension), 10)
    assert extended.hold_expires_at > booking.hold_expires_at


@asynccontextmanager
async def extension_that_meets_an_expiry(
    postgres: Server, store: BookingStore, booking: Booking
) -> AsyncIterator[asyncio.Task[Booking]]:
    """Let an extension begin while another transaction expires the booking, and that one win."""
    async with asyncio.timeout(10):
        with orders(postgres) as connection:
            with connection.transaction():
                connection.execute(EXPIRE, [booking.id])
                extending = asyncio.create_task(store.extend_hold(booking, extension))
                with orders(postgres) as watching:
                    while not is_waiting(watching):  # noqa: ASYNC110 - the server tells nobody
                        await asyncio.sleep(0.01)
            yield extending


def is_waiting(connection: psycopg.Connection[object]) -> bool:
    return connection.execute(WAITS_FOR_A_LOCK).fetchone() is not None


async def test_an_extension_that_meets_an_expiry_changes_nothing(
    postgres: Server, event_id: str, store: BookingStore
) -> None:
    booking = await found(store, hold(postgres, event_id))
    async with extension_that_meets_an_expiry(postgres, store, booking) as extending:
        said = await extending
    assert said == booking._replace(status=EXPIRED)
    assert await store.find(booking.id) == said


async def test_without_its_guards_an_extension_would_change_an_ended_booking(
    postgres: Server, event_id: str, store: BookingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above."""
    unlocked = LOCK_HOLD.replace(" FOR UPDATE", "")
    unconditional = EXTEND_HOLD.replace("AND status = 'PENDING'", "")
    assert (unlocked, unconditional) != (LOCK_HOLD, EXTEND_HOLD)
    monkeypatch.setattr("booking.booking_store.LOCK_HOLD", unlocked)
    monkeypatch.setattr("booking.booking_store.EXTEND_HOLD", unconditional)
    booking = await found(store, hold(postgres, event_id))
    async with extension_that_meets_an_expiry(postgres, store, booking) as extending:
        await extending
    status, until, _, _ = stored(postgres, booking.id)
    assert (status, until > booking.hold_expires_at) == (EXPIRED, True)


@pytest.mark.parametrize("ending", ["sweep", "cancel", "confirm"])
async def test_an_extension_races_with_every_ending_and_stock_adds_up(
    postgres: Server, event_id: str, store: BookingStore, sweeper: Sweeper, ending: str
) -> None:
    """Two tasks: one extends a due hold, the other ends the booking. Either order is fine."""
    due = [
        await found(store, hold(postgres, f"{event_id}-{number}", left=-timedelta(seconds=1)))
        for number in range(RACES)
    ]

    async def end(other: BookingStore, booking: Booking) -> None:
        if ending == "cancel":
            await other.change(
                booking, lambda b, *_: transitions.cancel(b, "no time"), "", lock_sale=True
            )
        elif ending == "confirm":
            await other.change(booking, transitions.confirm, "", lock_sale=False)

    async with opened(postgres) as database:
        other = BookingStore(database, IdSource())
        said = await asyncio.gather(
            *(store.extend_hold(booking, extension) for booking in due),
            *(end(other, booking) for booking in due),
            *([sweeper.sweep()] if ending == "sweep" else []),
        )
    for booking, heard in zip(due, said, strict=False):
        assert isinstance(heard, Booking)
        status, until, _, now = stored(postgres, booking.id)
        was_extended = heard.status == PENDING
        assert (until > now) == was_extended
        if ending == "sweep":
            assert status == (PENDING if was_extended else EXPIRED)
        else:
            assert status == (CANCELLED if ending == "cancel" else CONFIRMED)
        held = TICKETS if status in {PENDING, CONFIRMED} else 0
        assert remaining(postgres, booking.event_id) == TICKETS - held
        told = {PENDING: [], EXPIRED: ["booking.expired"], CANCELLED: ["booking.cancelled"]}
        assert outbox(postgres, booking.id) == told.get(status, ["booking.confirmed"])


async def found(store: BookingStore, booking_id: str) -> Booking:
    booking = await store.find(booking_id)
    assert booking is not None
    return booking
