"""Bookings as JSON, and how they are read from the booking service's protobuf."""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ticketra.booking.v1 import booking_pb2

TICKETS_LIMIT = 1_000  # of one booking: they are issued in one transaction
USER_ID_LIMIT_CHARS = 64
EVENT_ID_LIMIT_CHARS = 64
PAGE_SIZE = 20
PAGE_SIZE_LIMIT = 100
CURSOR_LIMIT_CHARS = 256

BookingStatus = Literal["PENDING", "CONFIRMED", "CANCELLED", "EXPIRED"]
PaymentStatus = Literal["pending", "paid", "declined", "refunding", "refunded"]
TicketStatus = Literal["valid", "void"]

UserId = Annotated[
    str, StringConstraints(min_length=1, max_length=USER_ID_LIMIT_CHARS, pattern=r"^[!-~]+$")
]
"""Visible ASCII: the id in a token, or under the open policy any such label."""


class BookingRequest(BaseModel):
    """The body of a request to book tickets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    event_id: Annotated[
        str, StringConstraints(min_length=1, max_length=EVENT_ID_LIMIT_CHARS, pattern=r"^[!-~]+$")
    ]
    ticket_count: Annotated[int, Field(strict=True, ge=1, le=TICKETS_LIMIT)]
    user_id: UserId | None = None


class PageQuery(BaseModel):
    """The query of a list: which page."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(default=PAGE_SIZE, ge=1, le=PAGE_SIZE_LIMIT)
    cursor: (
        Annotated[
            str,
            StringConstraints(min_length=1, max_length=CURSOR_LIMIT_CHARS, pattern=r"^[!-~]+$"),
        ]
        | None
    ) = None


class ListQuery(PageQuery):
    """The query of a list of bookings: whose, and which page."""

    user_id: UserId | None = None


class Amount(BaseModel):
    """An amount in integer minor units (cents) of an ISO 4217 currency."""

    amount_minor: int
    currency: str


class BookingBody(BaseModel):
    """A booking, as the API shows it. Times are in UTC.

    `amount` is null where the event has no price; `reason` says why a booking was cancelled.
    """

    id: str
    event_id: str
    user_id: str
    ticket_count: int
    amount: Amount | None
    status: BookingStatus
    payment_status: PaymentStatus
    reason: str | None
    hold_expires_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, booking: booking_pb2.Booking) -> Self:
        """Return the booking service's `booking` as the API shows it."""
        return cls.model_validate(
            {
                "id": booking.id,
                "event_id": booking.event_id,
                "user_id": booking.user_id,
                "ticket_count": booking.ticket_count,
                "amount": _amount(booking.amount),
                "status": _status(booking.status),
                "payment_status": _payment_status(booking.payment_status),
                "reason": booking.reason or None,
                "hold_expires_at": (
                    _time(booking.hold_expires_at) if booking.HasField("hold_expires_at") else None
                ),
                "created_at": _time(booking.created_at),
                "updated_at": _time(booking.updated_at),
            }
        )


class BookingPage(BaseModel):
    """One page of a user's bookings; `next_cursor` is empty on the last."""

    bookings: list[BookingBody]
    next_cursor: str


class TicketBody(BaseModel):
    """A ticket, as the API shows it.

    `number` counts from 1 to the booking's `ticket_count`; `code` is a JWS (RFC 7515) that a door
    verifies with the public keys alone, and null once the ticket is void.
    """

    id: str
    booking_id: str
    number: int
    code: str | None
    status: TicketStatus

    @classmethod
    def of(cls, ticket: booking_pb2.Ticket) -> Self:
        """Return the booking service's `ticket` as the API shows it."""
        return cls.model_validate(
            {
                "id": ticket.id,
                "booking_id": ticket.booking_id,
                "number": ticket.number,
                "code": ticket.code or None,
                "status": _ticket_status(ticket.status),
            }
        )


class TicketPage(BaseModel):
    """One page of a booking's tickets; `next_cursor` is empty on the last."""

    tickets: list[TicketBody]
    next_cursor: str


def _time(value: Timestamp) -> datetime:
    return value.ToDatetime(tzinfo=UTC)


def _amount(value: booking_pb2.Money) -> Amount | None:
    if not value.currency:
        return None
    return Amount(amount_minor=value.amount_minor, currency=value.currency)


def _status(value: booking_pb2.BookingStatus.ValueType) -> str:
    return booking_pb2.BookingStatus.Name(value).removeprefix("BOOKING_STATUS_")


def _payment_status(value: booking_pb2.PaymentStatus.ValueType) -> str:
    return booking_pb2.PaymentStatus.Name(value).removeprefix("PAYMENT_STATUS_").lower()


def _ticket_status(value: booking_pb2.TicketStatus.ValueType) -> str:
    return booking_pb2.TicketStatus.Name(value).removeprefix("TICKET_STATUS_").lower()
