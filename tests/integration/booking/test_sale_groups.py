"""Cancellations, declines and late confirmations in groups, against a real PostgreSQL."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import psycopg
import pytest

from booking.bookings import Bookings
from booking.groups import Wish
from booking.models import Booking
from booking.sale_group_store import SaleGroupStore
from booking.sale_groups import Outcome
from booking.turns import WAITING_LIMIT
from tests.integration.booking.changing import changing_bookings
from tests.integration.booking.sold_sales import look, sell
from tests.integration.booking_task import orders
from tests.integration.servers import Server
from ticketra.database import Database
from ticketra.errors import Busy, Conflict
from ticketra.ids import IdSource

MINT = IdSource()
LIMIT_S = 30
LOOK_INTERVAL_S = 0.01


class CountingSaleGroups(SaleGroupStore):
    """Knows how large each group was."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, MINT)
        self.sizes: list[int] = []

    async def change(self, event_id: str, wishes: Sequence[Wish]) -> list[Outcome]:
        self.sizes.append(len(wishes))
        return await super().change(event_id, wishes)


@pytest.fixture
def groups(database: Database) -> CountingSaleGroups:
    return CountingSaleGroups(database)


@pytest.fixture
def bookings(database: Database, groups: CountingSaleGroups) -> Bookings:
    return changing_bookings(database, MINT, sale_groups=groups)


async def decline(bookings: Bookings, booking_id: str) -> Booking:
    return await bookings.cancel(
        booking_id, "", "no funds", payment_declined=True, request_id=f"request-{booking_id}"
    )


async def cancel(bookings: Bookings, booking_id: str) -> Booking:
    return await bookings.cancel(
        booking_id, "", "no time", payment_declined=False, request_id=f"request-{booking_id}"
    )


async def test_a_flood_of_declines_and_cancellations_is_few_transactions(
    postgres: Server, event_id: str, bookings: Bookings, groups: CountingSaleGroups
) -> None:
    ids = sell(postgres, event_id, 200, tickets=3)
    pending, sold = ids[::2], ids[1::2]
    calls = [decline(bookings, id_) for id_ in pending] + [cancel(bookings, id_) for id_ in sold]
    async with asyncio.timeout(LIMIT_S):
        answers = await asyncio.gather(*calls)
    assert [answer.id for answer in answers] == [*pending, *sold]
    assert {answer.status for answer in answers} == {"CANCELLED"}
    assert sum(groups.sizes) == 200, "nobody had to be asked twice"
    found = look(postgres, event_id)
    declined, paid = ("CANCELLED", "declined", "no funds"), ("CANCELLED", "refunding", "no time")
    assert found.remaining == 600
    assert found.bookings == {declined: 100, paid: 100}
    assert found.tickets == {"void": 300}
    assert found.messages == {
        ("booking.cancelled", *declined): 100,
        ("booking.cancelled", *paid): 100,
    }
    with orders(postgres) as connection:
        [transactions] = connection.execute(
            "SELECT count(DISTINCT xmin::text) FROM bookings WHERE event_id = %s", [event_id]
        ).fetchone() or [0]
        told = connection.execute(
            "SELECT count(*) FROM outbox WHERE subject = ANY(%s)"
            " AND body::json ->> 'request_id' = 'request-' || subject",
            [ids],
        ).fetchone()
    assert transactions <= 20
    assert told == (200,)
    again = await asyncio.gather(*(cancel(bookings, id_) for id_ in sold))
    assert again == answers[100:], "repeating it answers the same"
    assert look(postgres, event_id) == found


async def test_a_late_confirmation_takes_what_was_given_back_before_it_in_the_group(
    postgres: Server, event_id: str, groups: CountingSaleGroups, bookings: Bookings
) -> None:
    ids = sell(postgres, event_id, 6)
    late, too_late, given_back = ids[0], ids[2], ids[1]
    with orders(postgres) as connection:
        connection.execute(
            "UPDATE bookings SET status = 'EXPIRED' WHERE id = ANY(%s::uuid[])", [[late, too_late]]
        )
        # Somebody else took their tickets: the sale is still sold out.
        connection.execute("UPDATE sales SET capacity = 4 WHERE event_id = %s", [event_id])
    [first, second, third] = await asyncio.gather(
        cancel(bookings, given_back),
        bookings.confirm(late, "test"),
        bookings.confirm(too_late, "test"),
        return_exceptions=True,
    )
    assert isinstance(first, Booking)
    # Which of the two comes first is not promised, but only one can have the ticket.
    confirmed, refused = (second, third) if isinstance(second, Booking) else (third, second)
    assert isinstance(confirmed, Booking)
    assert (confirmed.status, confirmed.payment_status) == ("CONFIRMED", "paid")
    assert isinstance(refused, Conflict)
    assert refused.code == "tickets_gone"
    states = {id_: await bookings.get(id_, "") for id_ in (late, too_late)}
    assert sorted((one.status, one.payment_status) for one in states.values()) == [
        ("CONFIRMED", "paid"),
        ("EXPIRED", "refunding"),
    ]
    assert look(postgres, event_id).remaining == 0
    assert look(postgres, event_id).tickets == {"valid": 3, "void": 1}


async def test_a_late_confirmation_respects_what_its_user_may_hold(
    postgres: Server, event_id: str, bookings: Bookings
) -> None:
    ids = sell(postgres, event_id, 4)
    expired = [ids[0], ids[2]]
    with orders(postgres) as connection:
        connection.execute("UPDATE bookings SET user_id = 'ada' WHERE event_id = %s", [event_id])
        connection.execute(
            "UPDATE bookings SET status = 'EXPIRED' WHERE id = ANY(%s::uuid[])", [expired]
        )
        connection.execute(
            "UPDATE sales SET remaining = 2, max_per_user = 3 WHERE event_id = %s", [event_id]
        )
    answers = await asyncio.gather(
        *(bookings.confirm(id_, "test") for id_ in expired), return_exceptions=True
    )
    assert Counter(type(answer) for answer in answers) == {Booking: 1, Conflict: 1}
    assert look(postgres, event_id).remaining == 1


async def test_one_whose_booking_is_locked_holds_the_others_of_the_group_not_up(
    postgres: Server, event_id: str, bookings: Bookings
) -> None:
    ids = sell(postgres, event_id, 6)[::2]
    with orders(postgres) as connection, connection.transaction():
        connection.execute("SELECT FROM bookings WHERE id = %s FOR UPDATE", [ids[1]])
        calls = [asyncio.create_task(decline(bookings, id_)) for id_ in ids]
        async with asyncio.timeout(LIMIT_S):
            others = [await calls[0], await calls[2]]
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await calls[1]
    assert {one.status for one in others} == {"CANCELLED"}
    assert (await decline(bookings, ids[1])).status == "CANCELLED"
    assert look(postgres, event_id).messages.total() == 3


async def test_one_that_postgresql_refuses_fails_alone(
    postgres: Server, event_id: str, bookings: Bookings
) -> None:
    ids = sell(postgres, event_id, 6)
    with orders(postgres) as connection:
        connection.execute(
            "UPDATE sales SET capacity = 7, remaining = 4 WHERE event_id = %s", [event_id]
        )
        connection.execute("UPDATE bookings SET ticket_count = 5 WHERE id = %s", [ids[0]])
    answers = await asyncio.gather(
        *(decline(bookings, id_) for id_ in ids[:3:2]), return_exceptions=True
    )
    assert isinstance(answers[0], psycopg.errors.CheckViolation)
    assert isinstance(answers[1], Booking)
    assert look(postgres, event_id).remaining == 5


@contextmanager
def locked_sales(postgres: Server, event_ids: list[str]) -> Iterator[None]:
    """Keep sales locked, as a task would that stopped in the middle of a transaction."""
    with orders(postgres) as connection, connection.transaction():
        connection.execute(
            "SELECT FROM sales WHERE event_id = ANY(%s) ORDER BY event_id FOR UPDATE", [event_ids]
        )
        yield


class Watch:
    """The most connections of the booking task that waited for a lock at the same time."""

    def __init__(self) -> None:
        self.most = 0


@asynccontextmanager
async def watched(postgres: Server) -> AsyncIterator[Watch]:
    """Count the connections that wait for a lock, again and again."""
    watch = Watch()

    async def look_on() -> None:
        with orders(postgres) as connection:
            while True:
                [waiting] = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE application_name = 'booking' AND wait_event_type = 'Lock'"
                ).fetchone() or [0]
                watch.most = max(watch.most, waiting)
                await asyncio.sleep(LOOK_INTERVAL_S)

    looking = asyncio.create_task(look_on())
    try:
        yield watch
    finally:
        looking.cancel()


@pytest.mark.parametrize(("stuck", "most"), [(1, 1), (2 * WAITING_LIMIT, WAITING_LIMIT)])
async def test_stuck_sales_leave_connections_to_all_else(
    postgres: Server, event_id: str, bookings: Bookings, stuck: int, most: int
) -> None:
    stuck_ids = [f"{event_id}-stuck-{number}" for number in range(stuck)]
    ids = [id_ for event in stuck_ids for id_ in sell(postgres, event, 40)[::2]]
    well = sell(postgres, f"{event_id}-well", 6)
    with locked_sales(postgres, stuck_ids):
        async with watched(postgres) as watch, asyncio.timeout(LIMIT_S):
            declining = [asyncio.create_task(decline(bookings, id_)) for id_ in ids]
            while not watch.most:  # noqa: ASYNC110 - it has no event to wait for
                await asyncio.sleep(LOOK_INTERVAL_S)
            for id_ in well[:3:2]:
                assert (await bookings.confirm(id_, "test")).status == "CONFIRMED"
                assert (await bookings.get(id_, "")).status == "CONFIRMED"
            assert (await decline(bookings, well[4])).status == "CANCELLED"
            assert (await cancel(bookings, well[5])).status == "CANCELLED"
            answers = await asyncio.gather(*declining, return_exceptions=True)
    assert watch.most == most
    assert {type(answer) for answer in answers} <= {psycopg.errors.LockNotAvailable, Busy}
    async with asyncio.timeout(LIMIT_S):
        answers = await asyncio.gather(*(decline(bookings, id_) for id_ in ids))
    assert all(isinstance(answer, Booking) for answer in answers)
    assert all(look(postgres, event).remaining == 20 for event in stuck_ids)
