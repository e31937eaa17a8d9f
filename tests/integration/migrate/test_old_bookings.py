"""Bookings of the time before there were tickets get theirs with a migration."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree
from typing import NamedTuple
from uuid import RFC_4122, UUID

import pytest

from booking import reconcile
from booking.ledger_store import LedgerStore
from booking.validation import TICKET_COUNT_LIMIT
from migrate.postgresql import ROOT, apply
from tests.integration import servers
from tests.integration.booking.sold_sales import OPEN_SALE, sell
from tests.integration.booking_task import migrate_settings, orders
from tests.integration.fixtures import opened
from tests.integration.servers import Server

ISSUING = "0008_tickets_of_old_bookings.sql"
WAIT_LIMIT_S = 20.0

BOOK = """
INSERT INTO bookings (id, event_id, user_id, ticket_count, amount_minor, currency, status,
                      payment_status, hold_expires_at, created_at, updated_at)
VALUES (gen_random_uuid(), 'concert', 'ada', %s, 0, '', %s, %s, now(), now(), now())
RETURNING id
"""

MIGRATION_WAITS = """
SELECT 1 FROM pg_stat_activity WHERE application_name = 'migrate' AND wait_event_type = 'Lock'
"""


class Ticket(NamedTuple):
    id: UUID
    booking_id: UUID
    number: int
    status: str


@pytest.fixture
def new_postgres() -> Iterator[Server]:
    """A PostgreSQL of the test's own that nothing was applied to."""
    with servers.postgres() as server:
        yield server


def bring_to(postgres: Server, last: str, directory: Path) -> None:
    """Apply the files of `orders` up to the one whose name begins with `last`."""
    root = copytree(ROOT, directory / last)
    for path in (root / "orders").glob("*.sql"):
        if path.name[: len(last)] > last:
            path.unlink()
    apply(migrate_settings(postgres), root)


def open_sale(postgres: Server) -> None:
    with orders(postgres) as connection:
        connection.execute(OPEN_SALE, ["concert", 10_000, 10_000, False])


def book(postgres: Server, ticket_count: int, status: str, payment_status: str) -> UUID:
    """Make a booking in a state that it may have, with the stock that it holds."""
    holds = ticket_count if status in {"PENDING", "CONFIRMED"} else 0
    with orders(postgres) as connection:
        connection.execute("UPDATE sales SET remaining = remaining - %s", [holds])
        row = connection.execute(BOOK, [ticket_count, status, payment_status]).fetchone()
    assert row is not None
    booking_id: UUID = row[0]
    return booking_id


def tickets(postgres: Server) -> list[Ticket]:
    with orders(postgres) as connection:
        rows = connection.execute("SELECT id, booking_id, number, status FROM tickets").fetchall()
    return [Ticket._make(row) for row in rows]


async def test_what_was_confirmed_gets_a_ticket_for_each_seat(
    new_postgres: Server, tmp_path: Path
) -> None:
    bring_to(new_postgres, "0003", tmp_path)
    open_sale(new_postgres)
    confirmed = {
        book(new_postgres, count, "CONFIRMED", "paid"): count
        for count in (1, 1, 5, TICKET_COUNT_LIMIT)
    }
    for status, payment_status in (
        ("PENDING", "pending"),
        ("PENDING", "paid"),
        ("CANCELLED", "declined"),
        ("CANCELLED", "refunding"),
        ("CANCELLED", "refunded"),
        ("EXPIRED", "pending"),
        ("EXPIRED", "refunded"),
    ):
        book(new_postgres, 2, status, payment_status)

    began_ms = time.time_ns() // 1_000_000
    apply(migrate_settings(new_postgres))
    ended_ms = time.time_ns() // 1_000_000

    issued = tickets(new_postgres)
    assert sorted((ticket.booking_id, ticket.number) for ticket in issued) == sorted(
        (booking_id, number)
        for booking_id, count in confirmed.items()
        for number in range(1, count + 1)
    )
    assert {ticket.status for ticket in issued} == {"valid"}
    assert {(ticket.id.version, ticket.id.variant) for ticket in issued} == {(7, RFC_4122)}
    assert all(began_ms <= ticket.id.int >> 80 <= ended_ms for ticket in issued)
    assert len({ticket.id.int & (1 << 62) - 1 for ticket in issued}) == len(issued), "not random"
    async with opened(new_postgres) as database:
        found = await reconcile.reconcile(LedgerStore(database), print, repair=False)
    assert found == reconcile.Result(1, 0, 0, 0)


def test_what_has_tickets_is_left_alone_and_nothing_is_issued_twice(
    new_postgres: Server, tmp_path: Path
) -> None:
    bring_to(new_postgres, "0007", tmp_path)
    _, whole, _, partly, _, old = sell(new_postgres, "concert", 6, tickets=3)
    with orders(new_postgres) as connection:
        connection.execute("DELETE FROM tickets WHERE booking_id = %s AND number = 2", [partly])
        connection.execute("DELETE FROM tickets WHERE booking_id = %s", [old])
    before = tickets(new_postgres)

    apply(migrate_settings(new_postgres))
    after = tickets(new_postgres)
    with orders(new_postgres) as connection:
        again = connection.execute((ROOT / "orders" / ISSUING).read_bytes())

    assert {str(ticket.booking_id) for ticket in before} == {whole, partly}
    assert set(before) < set(after)
    assert sorted((str(t.booking_id), t.number) for t in set(after) - set(before)) == [
        (old, number) for number in (1, 2, 3)
    ]
    assert (again.rowcount, sorted(tickets(new_postgres))) == (0, sorted(after))


def test_a_booking_that_is_cancelled_meanwhile_gets_none(
    new_postgres: Server, tmp_path: Path
) -> None:
    bring_to(new_postgres, "0007", tmp_path)
    open_sale(new_postgres)
    leaving, staying = (book(new_postgres, 2, "CONFIRMED", "paid") for _ in range(2))
    with ThreadPoolExecutor() as pool:
        with orders(new_postgres) as connection, connection.transaction():
            connection.execute(
                "UPDATE bookings SET status = 'CANCELLED', payment_status = 'refunding'"
                " WHERE id = %s",
                [leaving],
            )
            migration = pool.submit(apply, migrate_settings(new_postgres))
            deadline = time.monotonic() + WAIT_LIMIT_S
            with orders(new_postgres) as looking:
                while not (looking.execute(MIGRATION_WAITS).fetchone() or migration.done()):
                    assert time.monotonic() < deadline, "the migration does not get there"
                    time.sleep(0.02)
        migration.result()
    assert {ticket.booking_id for ticket in tickets(new_postgres)} == {staying}
