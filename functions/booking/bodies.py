"""The bodies of the booking task's messages, as JSON text."""

from booking.models import Booking
from ticketra import messages


def created(booking: Booking, request_id: str) -> str:
    """Return the body of `booking.created`."""
    return messages.encode(_common(booking, request_id)).decode()


def changed(booking: Booking, request_id: str) -> str:
    """Return the body of `booking.confirmed`, `booking.cancelled` or `booking.expired`."""
    return messages.encode(
        _common(booking, request_id)
        | {
            "status": booking.status,
            "payment_status": booking.payment_status,
            "reason": booking.reason,
        }
    ).decode()


def sale_closed(event_id: str, version: int, request_id: str) -> str:
    """Return the body of `sale.closed`."""
    return messages.encode(
        {"event_id": event_id, "version": version, "request_id": request_id}
    ).decode()


def _common(booking: Booking, request_id: str) -> dict[str, object]:
    return {
        "booking_id": booking.id,
        "event_id": booking.event_id,
        "user_id": booking.user_id,
        "ticket_count": booking.ticket_count,
        "amount_minor": booking.amount_minor,
        "currency": booking.currency,
        "hold_expires_at": booking.hold_expires_at.isoformat(),
        "request_id": request_id,
    }
