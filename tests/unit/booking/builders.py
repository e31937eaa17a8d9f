"""Short ways to make what the booking tests talk about."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from booking.bookings import request_hash
from booking.models import PAYMENT_PENDING, PENDING, Booking, CreateRequest, Sale
from ticketra.ids import uuid7

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
HOLD_TTL = timedelta(minutes=10)
_numbers = count(1)


def sale(event_id: str = "concert", remaining: int = 10, **changes: Any) -> Sale:
    """Return an open sale of 100 tickets at 25.00 EUR."""
    return Sale(
        event_id=event_id,
        version=1,
        capacity=100,
        remaining=remaining,
        price_amount_minor=2500,
        price_currency="EUR",
        sales_start=None,
        sales_end=None,
        max_per_booking=0,
        max_per_user=0,
        closed=False,
        stock_version=0,
    )._replace(**changes)


def request(
    ticket_count: int = 1, event_id: str = "concert", user_id: str = "ada", key: str = ""
) -> CreateRequest:
    """Return a request with an id of its own."""
    return CreateRequest(
        uuid7(next(_numbers), 0),
        event_id,
        user_id,
        ticket_count,
        key,
        key_is_fresh=False,
        request_hash=request_hash(event_id, ticket_count),
        request_id="test",
    )


def booking(
    status: str = PENDING, payment_status: str = PAYMENT_PENDING, **changes: Any
) -> Booking:
    """Return a booking of 2 tickets."""
    return Booking(
        id=uuid7(next(_numbers), 0),
        event_id="concert",
        user_id="ada",
        ticket_count=2,
        amount_minor=5000,
        currency="EUR",
        status=status,
        payment_status=payment_status,
        reason="",
        hold_expires_at=NOW + HOLD_TTL,
        created_at=NOW,
        updated_at=NOW,
    )._replace(**changes)
