"""What the database itself forbids, whatever the worker does."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.errors import CheckViolation, InsufficientPrivilege, UniqueViolation

from tests.integration.payment.database import Database

_INSERT = """
    INSERT INTO payment.payments (id, booking_id, ticket_count, amount_minor, currency, state)
    VALUES (%(id)s, %(booking_id)s, %(ticket_count)s, %(amount_minor)s, %(currency)s, %(state)s)
"""


@pytest.fixture
def role(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with database.role() as connection:
        yield connection


def payment(**changes: object) -> dict[str, object]:
    columns: dict[str, object] = {
        "id": uuid4(),
        "booking_id": uuid4(),
        "ticket_count": 1,
        "amount_minor": 0,
        "currency": "",
        "state": "started",
    }
    return columns | changes


@pytest.mark.parametrize("table", ["sales", "bookings", "outbox", "schema_migrations"])
def test_the_role_does_not_see_what_is_booking_s(role: psycopg.Connection[Any], table: str) -> None:
    with pytest.raises(InsufficientPrivilege):
        role.execute(f"SELECT * FROM public.{table}")


@pytest.mark.parametrize("table", ["payments", "attempts", "mock_bank_charges"])
def test_the_role_deletes_nothing_that_tells_where_money_went(
    role: psycopg.Connection[Any], table: str
) -> None:
    with pytest.raises(InsufficientPrivilege):
        role.execute(f"DELETE FROM payment.{table}")


@pytest.mark.parametrize(
    "table", ["payments", "attempts", "inbox", "outbox", "mock_bank_charges", "mock_bank_behaviour"]
)
def test_booking_does_not_see_what_is_payment_s(database: Database, table: str) -> None:
    with database.admin() as connection:
        connection.execute("SET ROLE booking")
        with pytest.raises(InsufficientPrivilege):
            connection.execute(f"SELECT * FROM payment.{table}")


def test_a_booking_has_one_payment(role: psycopg.Connection[Any]) -> None:
    booking_id: UUID = uuid4()
    role.execute(_INSERT, payment(booking_id=booking_id))
    with pytest.raises(UniqueViolation):
        role.execute(_INSERT, payment(booking_id=booking_id))


@pytest.mark.parametrize(
    "wrong",
    [{"ticket_count": 0}, {"amount_minor": -1}, {"currency": "euro"}, {"state": "lost"}],
)
def test_a_payment_that_makes_no_sense_is_refused(
    role: psycopg.Connection[Any], wrong: dict[str, object]
) -> None:
    with pytest.raises(CheckViolation):
        role.execute(_INSERT, payment(**wrong))
