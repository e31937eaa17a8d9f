"""Groups of confirmations and refunds, against a real PostgreSQL."""

import asyncio
from typing import Any

import psycopg
import pytest

from booking import transitions
from booking.bookings import Bookings
from booking.group_store import GroupStore
from booking.groups import Wish
from booking.models import Booking, Transition
from tests.integration.booking.changing import changing_bookings
from tests.integration.booking.sold_sales import look, sell
from tests.integration.booking_task import orders
from tests.integration.servers import Server
from ticketra.database import Database
from ticketra.errors import Conflict, NotFound
from ticketra.ids import IdSource

MINT = IdSource()
NOBODY = "00000000-0000-7000-8000-000000000000"
LIMIT_S = 30


class CountingGroups(GroupStore):
    """Knows how large each group was."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, MINT)
        self.sizes: list[int] = []

    async def change(self, wishes: Any) -> list[Booking | None]:
        self.sizes.append(len(wishes))
        return await super().change(wishes)


@pytest.fixture
def groups(database: Database) -> CountingGroups:
    return CountingGroups(database)


@pytest.fixture
def bookings(database: Database, groups: CountingGroups) -> Bookings:
    return changing_bookings(database, MINT, groups=groups)


def held(postgres: Server, event_id: str, count: int, *, tickets: int = 1) -> list[str]:
    """Return the PENDING ones of twice as many bookings."""
    return sell(postgres, event_id, 2 * count, tickets=tickets)[::2]


def set_state(postgres: Server, booking_id: str, status: str, payment_status: str) -> None:
    with orders(postgres) as connection:
        connection.execute(
            "UPDATE bookings SET status = %s, payment_status = %s WHERE id = %s",
            [status, payment_status, booking_id],
        )


def confirm(booking_id: str, request_id: str = "test") -> Wish:
    return Wish(booking_id, transitions.confirm, request_id)


def refund(present: Booking, *_: object) -> Transition | None:
    return transitions.refund(present)


async def test_a_group_is_confirmed_in_one_transaction_with_its_tickets_and_messages(
    postgres: Server, event_id: str, groups: CountingGroups
) -> None:
    ids = held(postgres, event_id, 300, tickets=3)
    changed = await groups.change([confirm(id_, f"request-{id_}") for id_ in ids])
    assert [booking and booking.id for booking in changed] == ids
    assert {booking and (booking.status, booking.payment_status) for booking in changed} == {
        ("CONFIRMED", "paid")
    }
    found = look(postgres, event_id)
    assert found.bookings == {("CONFIRMED", "paid", ""): 600}
    assert found.messages == {("booking.confirmed", "CONFIRMED", "paid", ""): 300}
    assert found.remaining == 0
    with orders(postgres) as connection:
        assert connection.execute(
            "SELECT count(DISTINCT xmin::text) FROM bookings WHERE id = ANY(%s::uuid[])", [ids]
        ).fetchone() == (1,)
        issued = connection.execute(
            "SELECT booking_id::text, array_agg(number ORDER BY number), min(status)"
            " FROM tickets WHERE booking_id = ANY(%s::uuid[]) GROUP BY booking_id",
            [ids],
        ).fetchall()
        told = connection.execute(
            "SELECT count(*) FROM outbox WHERE subject = ANY(%s)"
            " AND body::json ->> 'request_id' = 'request-' || subject",
            [ids],
        ).fetchone()
        stored = connection.execute(
            "SELECT updated_at FROM bookings WHERE id = %s", [ids[0]]
        ).fetchone()
    assert sorted(issued) == sorted((id_, [1, 2, 3], "valid") for id_ in ids)
    assert told == (300,)
    assert changed[0] is not None
    assert stored == (changed[0].updated_at,)
    again = await groups.change([confirm(id_) for id_ in ids])
    assert again == changed, "repeating it changes nothing"
    assert look(postgres, event_id) == found


async def test_each_of_many_callers_at_once_gets_its_own_answer(
    postgres: Server, event_id: str, groups: CountingGroups, bookings: Bookings
) -> None:
    ids = held(postgres, event_id, 40)
    expired, cancelled, sold = ids[10], ids[20], ids[30]
    set_state(postgres, expired, "EXPIRED", "pending")
    set_state(postgres, cancelled, "CANCELLED", "pending")
    set_state(postgres, sold, "CONFIRMED", "paid")
    asked = [*ids, NOBODY, "no uuid", ids[0], ids[1].upper()]
    async with asyncio.timeout(LIMIT_S):
        answers = await asyncio.gather(
            *(bookings.confirm(id_, "test") for id_ in asked), return_exceptions=True
        )
    by_id = dict(zip(asked, answers, strict=True))
    refused = {expired: "tickets_gone", cancelled: "booking_cancelled"}
    for id_, code in refused.items():
        answer = by_id.pop(id_)
        assert isinstance(answer, Conflict)
        assert answer.code == code
    for id_ in (NOBODY, "no uuid"):
        assert isinstance(by_id.pop(id_), NotFound)
    for id_, answer in by_id.items():
        assert isinstance(answer, Booking)
        assert (answer.id, answer.status) == (id_.lower(), "CONFIRMED")
    assert groups.sizes == [43], "all but what is no id went as one group"
    messages = look(postgres, event_id).messages
    assert messages == {("booking.confirmed", "CONFIRMED", "paid", ""): 37}
    for id_ in refused:
        assert (await bookings.get(id_, "")).payment_status == "refunding"


async def test_one_that_postgresql_refuses_fails_alone(
    postgres: Server, event_id: str, bookings: Bookings
) -> None:
    ids = held(postgres, event_id, 5)
    with orders(postgres) as connection:
        connection.execute(
            "INSERT INTO tickets (id, booking_id, number) VALUES (gen_random_uuid(), %s, 1)",
            [ids[2]],
        )
    answers = await asyncio.gather(
        *(bookings.confirm(id_, "test") for id_ in ids), return_exceptions=True
    )
    assert isinstance(answers.pop(2), psycopg.errors.UniqueViolation)
    assert all(isinstance(one, Booking) and one.status == "CONFIRMED" for one in answers)
    assert look(postgres, event_id).messages.total() == 4
    with orders(postgres) as connection:
        row = connection.execute("SELECT status FROM bookings WHERE id = %s", [ids[2]]).fetchone()
    assert row == ("PENDING",)


async def test_a_batch_that_postgresql_refuses_confirms_none_and_each_may_go_alone(
    postgres: Server, event_id: str, bookings: Bookings
) -> None:
    ids = held(postgres, event_id, 3)
    with orders(postgres) as connection:
        connection.execute(
            "INSERT INTO tickets (id, booking_id, number) VALUES (gen_random_uuid(), %s, 1)",
            [ids[0]],
        )
    assert await bookings.confirm_batch([(id_, "test") for id_ in ids]) == []
    assert (await bookings.confirm(ids[1], "test")).status == "CONFIRMED"
    assert await bookings.confirm_batch([(id_, "test") for id_ in ids[1:]]) == ids[1:]
    assert look(postgres, event_id).messages.total() == 2


async def test_a_batch_waits_for_no_booking_that_is_locked(
    postgres: Server, event_id: str, bookings: Bookings
) -> None:
    ids = held(postgres, event_id, 3)
    with orders(postgres) as connection, connection.transaction():
        connection.execute("SELECT FROM bookings WHERE id = %s FOR UPDATE", [ids[1]])
        async with asyncio.timeout(LIMIT_S):
            confirmed = await bookings.confirm_batch([(id_, "test") for id_ in ids])
    assert confirmed == [ids[0], ids[2]]


async def test_a_booking_that_is_locked_holds_no_other_up(
    postgres: Server, event_id: str, bookings: Bookings
) -> None:
    ids = held(postgres, event_id, 3)
    with orders(postgres) as connection, connection.transaction():
        connection.execute("SELECT FROM bookings WHERE id = %s FOR UPDATE", [ids[1]])
        waiting = asyncio.create_task(bookings.confirm(ids[1], "test"))
        async with asyncio.timeout(LIMIT_S):
            others = [await bookings.confirm(id_, "test") for id_ in (ids[0], ids[2])]
        assert {one.status for one in others} == {"CONFIRMED"}
    with_luck = await asyncio.gather(waiting, return_exceptions=True)
    # The lock may have been kept for longer than a transaction waits, on a slow machine.
    if not isinstance(with_luck[0], psycopg.errors.LockNotAvailable):
        assert isinstance(with_luck[0], Booking)
    assert (await bookings.confirm(ids[1], "test")).status == "CONFIRMED"
    assert look(postgres, event_id).messages.total() == 3


async def test_refunds_are_noted_together_with_confirmations(
    postgres: Server, event_id: str, groups: CountingGroups, bookings: Bookings
) -> None:
    ids = held(postgres, event_id, 4)
    set_state(postgres, ids[0], "CANCELLED", "refunding")
    set_state(postgres, ids[1], "EXPIRED", "refunding")
    set_state(postgres, ids[2], "CONFIRMED", "paid")
    calls = [*(bookings.record_refund(id_, "test") for id_ in ids[:3])]
    noted = await asyncio.gather(*calls, bookings.confirm(ids[3], "test"), return_exceptions=True)
    assert groups.sizes == [4]
    refused = noted.pop(2)
    assert isinstance(refused, Conflict)
    assert refused.code == "booking_confirmed"
    states = [(one.status, one.payment_status) for one in noted if isinstance(one, Booking)]
    assert states == [("CANCELLED", "refunded"), ("EXPIRED", "refunded"), ("CONFIRMED", "paid")]
    assert look(postgres, event_id).messages.total() == 1, "nobody is told of a refund"
    again = await bookings.record_refund(ids[0], "test")
    assert again == noted[0], "repeating it answers the same"
