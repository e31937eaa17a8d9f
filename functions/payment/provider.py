"""The payment provider as the worker sees it. A real one is added by implementing `Provider`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from uuid import UUID

PROVIDER_DEADLINE_S = 10


class ChargeStatus(StrEnum):
    """What became of a charge."""

    PENDING = "pending"  # asked for, and not decided yet
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

    A method that has not answered after PROVIDER_DEADLINE_S is cancelled. After that, or after
    payment.models.Outage, the outcome is unknown and is looked up. A declined charge is an answer,
    not an error. A charge that is pending is looked up again until it is decided.
    """

    async def charge(
        self, *, booking_id: UUID, ticket_count: int, amount_minor: int, currency: str
    ) -> Charge:
        """Authorise and capture `amount_minor` minor units of `currency`.

        Asked again with the same booking id, it answers as the first time.
        """

    async def look_up(self, booking_id: UUID) -> Charge | None:
        """Return the charge of a booking, None if none was ever asked for."""

    async def refund(self, booking_id: UUID) -> Charge:
        """Give all of a booking's charge back; asked again, answer as the first time."""
