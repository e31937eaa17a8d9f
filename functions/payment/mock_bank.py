"""The built-in payment provider: pays up to five tickets and declines more.

It keeps its charges apart from the worker's payments, in transactions of its own, as a bank would:
a worker that dies between the charge and its own commit leaves the charge behind.
"""

from uuid import UUID

from payment.models import UnexpectedAnswer
from payment.postgres import Pool, transaction
from payment.provider import Charge, ChargeStatus

PAID_TICKETS_LIMIT = 5
DECLINED_REASON = "insufficient funds or suspected fraud"

_CHARGE = """
    INSERT INTO mock_bank_charges
        (booking_id, ticket_count, amount_minor, currency, status, reason)
    VALUES
        (%(booking_id)s, %(ticket_count)s, %(amount_minor)s, %(currency)s, %(status)s, %(reason)s)
    ON CONFLICT (booking_id) DO NOTHING
"""
_LOOK_UP = "SELECT status, reason FROM mock_bank_charges WHERE booking_id = %(booking_id)s"
_REFUND = """
    UPDATE mock_bank_charges SET status = 'refunded', refunded_at = now()
    WHERE booking_id = %(booking_id)s AND status = 'paid'
"""


class MockBank:
    """A `payment.provider.Provider` that lives in PostgreSQL.

    Every method raises payment.models.Outage when the database is away.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def charge(
        self, *, booking_id: UUID, ticket_count: int, amount_minor: int, currency: str
    ) -> Charge:
        """Pay up to PAID_TICKETS_LIMIT tickets, whatever they cost; decline more."""
        decision = decide(ticket_count)
        with transaction(self._pool) as connection:
            connection.execute(
                _CHARGE,
                {
                    "booking_id": booking_id,
                    "ticket_count": ticket_count,
                    "amount_minor": amount_minor,
                    "currency": currency,
                    "status": decision.status,
                    "reason": decision.reason,
                },
            )
        return self._known(booking_id)

    def look_up(self, booking_id: UUID) -> Charge | None:
        """Return the charge of a booking, None if none was ever asked for."""
        with transaction(self._pool) as connection:
            row = connection.execute(_LOOK_UP, {"booking_id": booking_id}).fetchone()
        if row is None:
            return None
        status, reason = row
        return Charge(ChargeStatus(str(status)), str(reason))

    def refund(self, booking_id: UUID) -> Charge:
        """Give the money back; what was refunded or declined before stays as it is."""
        with transaction(self._pool) as connection:
            connection.execute(_REFUND, {"booking_id": booking_id})
        return self._known(booking_id)

    def _known(self, booking_id: UUID) -> Charge:
        charge = self.look_up(booking_id)
        if charge is None:
            raise UnexpectedAnswer(f"the mock bank has no charge of booking {booking_id}")
        return charge


def decide(ticket_count: int) -> Charge:
    """Return the bank's answer for a number of tickets."""
    if ticket_count <= PAID_TICKETS_LIMIT:
        return Charge(ChargeStatus.PAID)
    return Charge(ChargeStatus.DECLINED, DECLINED_REASON)
