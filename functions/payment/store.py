"""Payments and the inbox in PostgreSQL (schema `payment`)."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg.rows import kwargs_row

from payment.models import REASON_LIMIT_CHARS, BookingCreated, Payment, Received, State
from payment.postgres import Pool, transaction
from ticketra.ids import uuid7_at

_RECEIVE = """
    INSERT INTO inbox (message_id) VALUES (%(message_id)s)
    ON CONFLICT (message_id) DO NOTHING
"""
_START = """
    INSERT INTO payments (id, booking_id, ticket_count, amount_minor, currency, state)
    VALUES (%(id)s, %(booking_id)s, %(ticket_count)s, %(amount_minor)s, %(currency)s, 'started')
    ON CONFLICT (booking_id) DO NOTHING
    RETURNING booking_id, ticket_count, amount_minor, currency, state, reason, now()
"""
_READ = """
    SELECT booking_id, ticket_count, amount_minor, currency, state, reason, now()
    FROM payments WHERE booking_id = %(booking_id)s
"""
_MOVE = """
    UPDATE payments SET state = %(state)s, reason = %(reason)s, updated_at = now()
    WHERE booking_id = %(booking_id)s AND state = %(present_state)s
    RETURNING booking_id, ticket_count, amount_minor, currency, state, reason, now()
"""


def _new_id() -> UUID:
    return uuid7_at(datetime.now(UTC), secrets.token_bytes)


class PaymentStore:
    """Records messages and moves payments, each in one transaction.

    Every method raises payment.models.Outage when the database is away.
    """

    def __init__(self, pool: Pool, new_id: Callable[[], UUID] = _new_id) -> None:
        self._pool = pool
        self._new_id = new_id

    def record(self, message_id: str, booking: BookingCreated) -> Received:
        """Record that a message was received and start its payment if there is none."""
        with transaction(self._pool) as connection:
            connection.execute(_RECEIVE, {"message_id": message_id})
            cursor = connection.cursor(row_factory=kwargs_row(_payment_and_time))
            started = cursor.execute(
                _START,
                {
                    "id": self._new_id(),
                    "booking_id": booking.booking_id,
                    "ticket_count": booking.ticket_count,
                    "amount_minor": booking.amount_minor,
                    "currency": booking.currency,
                },
            ).fetchone()
            if started is not None:
                return Received(started[0], started_now=True, now=started[1])
            cursor.execute(_READ, {"booking_id": booking.booking_id})
            payment, now = _one(cursor.fetchone())
            return Received(payment, started_now=False, now=now)

    def move(self, payment: Payment, state: State, reason: str) -> Payment:
        """Bring `payment` to `state`, unless another delivery of its message moved it before.

        Returns:
            The payment as it is stored now, which in that case is in the other's state.

        """
        with transaction(self._pool) as connection:
            cursor = connection.cursor(row_factory=kwargs_row(_payment_and_time))
            moved = cursor.execute(
                _MOVE,
                {
                    "booking_id": payment.booking_id,
                    "present_state": payment.state,
                    "state": state,
                    "reason": reason[:REASON_LIMIT_CHARS],
                },
            ).fetchone()
            if moved is None:
                cursor.execute(_READ, {"booking_id": payment.booking_id})
                moved = _one(cursor.fetchone())
            return moved[0]


def _payment_and_time(*, state: str, now: datetime, **columns: Any) -> tuple[Payment, datetime]:
    return Payment(state=State(state), **columns), now


def _one(found: tuple[Payment, datetime] | None) -> tuple[Payment, datetime]:
    if found is None:
        raise LookupError("a payment that was just found is gone: payments are never deleted")
    return found
