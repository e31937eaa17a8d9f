"""What the booking task talks about. Money is in minor units; times are UTC with zone."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from ticketra.errors import Refusal

PENDING = "PENDING"
CONFIRMED = "CONFIRMED"
CANCELLED = "CANCELLED"
EXPIRED = "EXPIRED"

PAYMENT_PENDING = "pending"
PAYMENT_PAID = "paid"
PAYMENT_DECLINED = "declined"
PAYMENT_REFUNDING = "refunding"
PAYMENT_REFUNDED = "refunded"

ISSUE: Literal["issue"] = "issue"
VOID: Literal["void"] = "void"


class Booking(NamedTuple):
    """Tickets of one event for one user: a row of `bookings`, in this order."""

    id: str
    event_id: str
    user_id: str
    ticket_count: int
    amount_minor: int
    currency: str
    status: str
    payment_status: str
    reason: str
    hold_expires_at: datetime
    created_at: datetime
    updated_at: datetime


class Sale(NamedTuple):
    """What of an event is sold, and under which terms: a row of `sales`, in this order.

    `max_per_booking` and `max_per_user` of 0 mean no limit. `stock_version` grows each time stock
    goes from none to some.
    """

    event_id: str
    version: int
    capacity: int
    remaining: int
    price_amount_minor: int
    price_currency: str
    sales_start: datetime | None
    sales_end: datetime | None
    max_per_booking: int
    max_per_user: int
    closed: bool
    stock_version: int


class SaleTerms(NamedTuple):
    """What an organiser decides about a sale."""

    capacity: int
    price_amount_minor: int
    price_currency: str
    sales_start: datetime | None
    sales_end: datetime | None
    max_per_booking: int
    max_per_user: int


class CreateRequest(NamedTuple):
    """One wish for tickets. `id` is minted on arrival, so that a lost answer can be read back.

    `key` is empty when the caller sent none; `key_is_fresh` says that it cannot be known yet.
    """

    id: str
    event_id: str
    user_id: str
    ticket_count: int
    key: str
    key_is_fresh: bool
    request_hash: bytes
    request_id: str


class KnownKey(NamedTuple):
    """The booking that an idempotency key made, and the hash of what it asked for."""

    request_hash: bytes
    booking: Booking


class Accepted(NamedTuple):
    """A new booking and the request that asked for it."""

    booking: Booking
    request: CreateRequest


class Replayed(NamedTuple):
    """The booking that the same request made before."""

    booking: Booking


Outcome = Accepted | Replayed | Refusal


TICKET_VALID = "valid"


class Ticket(NamedTuple):
    """One seat of a confirmed booking: a row of `tickets`. `number` is from 1 to `ticket_count`."""

    id: str
    booking_id: str
    number: int
    status: str


class OutboxMessage(NamedTuple):
    """What the world has to be told. `subject` is the booking or event that it is about."""

    id: str
    subject: str
    routing_key: str
    body: str


@dataclass(frozen=True, slots=True)
class Transition:
    """What happens to one booking.

    `stock_delta` is added to the sale's remaining tickets. Without a `routing_key` nobody is told.
    `refusal` is what the caller hears after the change is committed. `tickets` says what becomes of
    the booking's tickets: they are issued, or void from now on.
    """

    status: str
    payment_status: str
    reason: str
    stock_delta: int = 0
    routing_key: str | None = None
    refusal: Refusal | None = None
    tickets: Literal["issue", "void"] | None = None

    def apply(self, booking: Booking, now: datetime) -> Booking:
        """Return `booking` after this, changed at `now`."""
        return booking._replace(
            status=self.status,
            payment_status=self.payment_status,
            reason=self.reason,
            updated_at=now,
        )


class Decided(NamedTuple):
    """A locked booking, what happens to it, and the request that wants it so ("" for none)."""

    booking: Booking
    transition: Transition
    request_id: str
