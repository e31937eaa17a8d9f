"""The payment provider as the worker sees it. A real one is added by implementing `Provider`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from uuid import UUID

PROVIDER_DEADLINE_S = 10


class ChargeStatus(StrEnum):
    """What became of a charge."""

    PAID = "paid"
    DECLINED = "declined"
    REFUNDED = "refunded"


@dataclass(frozen=True, slots=True)
class Charge:
    """A charge at the provider; `reason` says why it was declined and is empty otherwise."""

    status: ChargeStatus
    reason: str = ""


class Provider(Protocol):
    """Takes money and gives it back; the booking id is the idempotency key of both.

    Every method answers within PROVIDER_DEADLINE_S or raises payment.models.Outage, after which the
    outcome is unknown and is looked up. A declined charge is an answer, not an error.
    """

    def charge(
        self, *, booking_id: UUID, ticket_count: int, amount_minor: int, currency: str
    ) -> Charge:
        """Take `amount_minor` minor units of `currency`; asked again, answer as the first time."""

    def look_up(self, booking_id: UUID) -> Charge | None:
        """Return the charge of a booking, None if none was ever asked for."""

    def refund(self, booking_id: UUID) -> Charge:
        """Give all of a booking's charge back; asked again, answer as the first time."""
