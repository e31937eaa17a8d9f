"""Whatever is asked of two tasks at once, the books stay right."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings

from tests.concurrency import books
from tests.concurrency.books import Asked, Books
from tests.concurrency.programs import (
    Close,
    Create,
    End,
    Outcome,
    Program,
    Terms,
    play,
    programs,
)
from tests.integration.booking_task import BookingTask, booking_tasks, orders
from tests.integration.servers import Server

PROGRAMS = 100
# What the programs surely come to. How often a race ends in one way or another is left to chance.
HAPPENS = {
    "made",
    "replayed",
    "sold_out",
    "not_enough_tickets",
    "booking_limit",
    "idempotency_mismatch",
    "sale_not_open",
    "booking_cancelled",
    "booking_confirmed",
    "closed",
    "booking.created booking.expired",
    "booking.created booking.cancelled",
    "booking.created booking.confirmed",
    "booking.created booking.confirmed booking.cancelled",
}


@contextmanager
def two_tasks(
    postgres: Server, redis: Server, rabbitmq: Server, directory: Path
) -> Iterator[list[BookingTask]]:
    """Run two tasks, each at a port of its own, so that a program chooses between them."""
    with ExitStack() as stack:
        running = []
        for name in ("one", "two"):
            (directory / name).mkdir()
            running += stack.enter_context(
                booking_tasks(postgres, redis, rabbitmq, directory / name)
            )
        yield running


@pytest.fixture(scope="module")
def tasks(
    postgres: Server, redis: Server, rabbitmq: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[BookingTask]]:
    directory = tmp_path_factory.mktemp("programs")
    with two_tasks(postgres, redis, rabbitmq, directory) as running:
        yield running


def test_the_books_stay_right(postgres: Server, tasks: list[BookingTask]) -> None:
    seen: Counter[str] = Counter()

    # Nothing is shrunk: what a race broke may not break again.
    @settings(
        max_examples=PROGRAMS,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    @given(program=programs)
    def holds(program: Program) -> None:
        seen.update(asyncio.run(play(program, postgres, tasks)).seen())

    holds()
    assert seen.keys() >= HAPPENS, f"never seen: {HAPPENS - seen.keys()}"


@pytest.fixture(scope="module")
def outcome(postgres: Server, tasks: list[BookingTask]) -> Outcome:
    """A keyed booking of two tickets that is confirmed, one that expired, and a closed sale."""
    keyed = Create(event=0, user=0, count=2, key=0, fresh=False, copies=3)
    program = Program(
        terms=(Terms(10, 0, 5), Terms(3, 0, 0)),
        rounds=[
            [keyed],
            [End("confirm", 0), keyed, Create(0, 1, 1, None, fresh=False, copies=1)],
            [Close(1)],
        ],
    )
    return asyncio.run(play(program, postgres, tasks))


NO_STOCK_CHECK = "ALTER TABLE sales DROP CONSTRAINT sales_remaining_within_capacity"
NO_KEY_INDEX = "DROP INDEX bookings_idempotency_key"
GIVE_BACK = "UPDATE sales SET remaining = remaining + 2 WHERE event_id = %(event)s"
CANCEL = "UPDATE bookings SET status = 'CANCELLED' WHERE id = %(confirmed)s"
UNCONFIRM = "UPDATE bookings SET status = 'PENDING' WHERE id = %(confirmed)s"
DELETE_TICKETS = "DELETE FROM tickets WHERE booking_id = %(confirmed)s"
DELETE_BOOKING = "DELETE FROM bookings WHERE id = %(confirmed)s"
DELETE_MESSAGES = "DELETE FROM outbox WHERE subject = %(confirmed)s"
DELETE_MESSAGE = "DELETE FROM outbox WHERE subject = %(confirmed)s AND routing_key = 'booking.{}'"
ISSUE_TO_EXPIRED = """
INSERT INTO tickets (id, booking_id, number) VALUES (gen_random_uuid(), %(expired)s, 1)
"""
CLOSE_OTHER = "UPDATE sales SET closed = true WHERE event_id = %(event)s"
SAY_OTHER_CLOSED = """
INSERT INTO outbox (id, subject, routing_key, body)
VALUES (gen_random_uuid(), %(event)s, 'sale.closed',
        json_build_object('event_id', %(event)s::text))
"""
SHARE_KEY = """
UPDATE bookings AS b
   SET user_id = k.user_id, idempotency_key = k.idempotency_key, request_hash = k.request_hash
  FROM bookings AS k WHERE k.id = %(confirmed)s AND b.id = %(expired)s
"""
COPY_BOOKING = """
INSERT INTO bookings SELECT (jsonb_populate_record(b, jsonb_build_object('id', %(copy)s::text))).*
  FROM bookings AS b WHERE id = %(expired)s
"""
COPY_MESSAGES = """
INSERT INTO outbox (id, subject, routing_key, body)
SELECT gen_random_uuid(), %(copy)s, routing_key, replace(body, %(expired)s, %(copy)s)
  FROM outbox WHERE subject = %(expired)s ORDER BY position
"""
EXPIRE_AGAIN = """
INSERT INTO outbox (id, subject, routing_key, body)
SELECT gen_random_uuid(), subject, routing_key, body
  FROM outbox WHERE subject = %(expired)s AND routing_key = 'booking.expired'
"""
SAY_EXPIRED = """
UPDATE outbox SET body = replace(body, 'CONFIRMED', 'EXPIRED') WHERE subject = %(confirmed)s
"""
NAME_ANOTHER = """
UPDATE outbox SET body = replace(body, %(expired)s, %(copy)s) WHERE subject = %(expired)s
"""

# What is done to right books, and what is then found.
BREAKAGES = [
    (["UPDATE sales SET remaining = remaining - 1 WHERE event_id = %(event)s"], "are held or sold"),
    ([GIVE_BACK], "are held or sold"),
    (["UPDATE bookings SET ticket_count = 3 WHERE id = %(confirmed)s"], "are held or sold"),
    ([NO_STOCK_CHECK, "UPDATE sales SET remaining = -1 WHERE event_id = %(event)s"], "is oversold"),
    (["UPDATE sales SET max_per_user = 1 WHERE event_id = %(event)s"], "holds 2 of"),
    (["UPDATE sales SET max_per_booking = 1 WHERE event_id = %(event)s"], "is too large for"),
    ([NO_KEY_INDEX, SHARE_KEY], "a key made two bookings"),
    ([CANCEL, GIVE_BACK], "was last told as booking.confirmed"),
    ([UNCONFIRM], "was last told as booking.confirmed"),
    ([UNCONFIRM, DELETE_TICKETS, DELETE_MESSAGE.format("confirmed")], "never ended"),
    ([DELETE_MESSAGES], "nobody was told of"),
    ([DELETE_MESSAGE.format("confirmed")], "was last told as booking.created"),
    ([DELETE_MESSAGE.format("created")], "was told booking.confirmed after "),
    ([EXPIRE_AGAIN], "was told booking.expired after booking.expired"),
    ([SAY_EXPIRED], "says EXPIRED"),
    ([NAME_ANOTHER], "names another booking"),
    ([DELETE_TICKETS], "has the tickets"),
    (["UPDATE tickets SET status = 'void' WHERE booking_id = %(confirmed)s"], "has the tickets"),
    ([ISSUE_TO_EXPIRED], "has the tickets"),
    ([CLOSE_OTHER, SAY_OTHER_CLOSED], "is closed and"),
    ([DELETE_TICKETS, DELETE_BOOKING, GIVE_BACK], "is about a booking that is not there"),
    ([DELETE_TICKETS, DELETE_BOOKING, GIVE_BACK, DELETE_MESSAGES], "acknowledged and not there"),
    ([COPY_BOOKING, COPY_MESSAGES], "acknowledged to nobody"),
    (["UPDATE bookings SET user_id = 'eve' WHERE id = %(expired)s"], "was answered with"),
    (["UPDATE sales SET closed = false WHERE event_id = %(closed)s"], "was told"),
    (["DELETE FROM outbox WHERE subject = %(closed)s"], "was told"),
    (["UPDATE sales SET version = 1 WHERE event_id = %(closed)s"], "heard of version"),
    (["UPDATE sales SET capacity = 11, remaining = 9 WHERE event_id = %(event)s"], "has not the"),
]


def broken(postgres: Server, outcome: Outcome, statements: list[str]) -> Books:
    """Return the books as they are after `statements`, which leave nothing behind."""
    ids = {booking.status.lower(): booking.id for booking in outcome.books.bookings.values()}
    event_id, closed = sorted(outcome.books.sales)
    copy = "00000000-0000-7000-8000-000000000000"
    names = ids | {"event": event_id, "closed": closed, "copy": copy}
    with orders(postgres) as connection:
        connection.autocommit = False
        for statement in statements:
            assert connection.execute(statement, names).rowcount != 0, statement
        found = books.read(connection, [event_id, closed])
        connection.rollback()
    return found


@pytest.mark.parametrize(("statements", "found"), BREAKAGES)
def test_broken_books_are_noticed(
    postgres: Server, outcome: Outcome, statements: list[str], found: str
) -> None:
    """Negative control of the judge."""
    books.check_at_rest(broken(postgres, outcome, []), outcome.answers, outcome.opened)
    with pytest.raises(AssertionError, match=found):
        books.check_at_rest(broken(postgres, outcome, statements), outcome.answers, outcome.opened)


def test_wrong_answers_are_noticed(outcome: Outcome) -> None:
    """Negative control of the judge: what callers hear is wrong, and the books are right."""
    asked = [answer for answer in outcome.answers if isinstance(answer, Asked)]
    [first] = [answer for answer in asked if answer.key and not answer.replayed]
    again = next(answer for answer in asked if answer.known)
    refused = again._replace(booking_id="", refusal="sold_out")
    mismatched = again._replace(booking_id="", refusal="idempotency_mismatch")
    for wrong, found in (
        ([*asked, first], "answered as new more or less than once"),
        ([a for a in asked if a is not first], "answered as new more or less than once"),
        ([*asked, refused], "was not answered as before"),
        ([*asked, mismatched], "matches"),
        ([*asked, again._replace(ticket_count=1)], "was answered with"),
        ([*asked, again._replace(booking_id="another")], "acknowledged and not there"),
    ):
        rest = [answer for answer in outcome.answers if not isinstance(answer, Asked)]
        with pytest.raises(AssertionError, match=found):
            books.check_at_rest(outcome.books, [*wrong, *rest], outcome.opened)


def test_wrong_steps_are_noticed(outcome: Outcome) -> None:
    """Negative control of the judge: each moment is right, and the way between them is not."""
    now = outcome.books
    books.check_step(now, now)
    [sale] = [sale for sale in now.sales.values() if sale.closed]
    for after, found in (
        (now._replace(bookings={}), "bookings are gone"),
        (now._replace(messages=now.messages[1:]), "the history"),
        (_with_sale(now, sale._replace(version=1)), "became"),
        (_with_sale(now, sale._replace(closed=False)), "is open again"),
        (_with_sale(now, sale._replace(remaining=0)), "sold on"),
    ):
        with pytest.raises(AssertionError, match=found):
            books.check_step(now, after)


def _with_sale(now: Books, sale: books.Sale) -> Books:
    return now._replace(sales=now.sales | {sale.event_id: sale})


def test_without_the_unique_key_a_program_breaks_the_books(
    own_postgres: Server, redis: Server, rabbitmq: Server, tmp_path: Path
) -> None:
    """Negative control of the whole: the same call in two rounds, its key called fresh in both."""
    same = Create(event=0, user=0, count=1, key=0, fresh=True, copies=2)
    program = Program(terms=(Terms(10, 0, 0),), rounds=[[same], [same]])
    with two_tasks(own_postgres, redis, rabbitmq, tmp_path) as tasks:
        asyncio.run(play(program, own_postgres, tasks))
        with orders(own_postgres) as connection:
            connection.execute("DROP INDEX bookings_idempotency_key")
        with pytest.raises(AssertionError, match="a key made two bookings"):
            asyncio.run(play(program, own_postgres, tasks))
