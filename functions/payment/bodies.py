"""The bodies of the payment worker's messages, as JSON text."""

from payment.models import REASON_LIMIT_CHARS, Payment, State
from ticketra import messages


def ended(payment: Payment, state: State, reason: str, request_id: str) -> str:
    """Return the body of `payment.succeeded`, `payment.failed` or `payment.refunded`."""
    return messages.encode(
        {
            "booking_id": str(payment.booking_id),
            "ticket_count": payment.ticket_count,
            "amount_minor": payment.amount_minor,
            "currency": payment.currency,
            "state": state,
            "reason": reason[:REASON_LIMIT_CHARS],
            "request_id": request_id,
        }
    ).decode()
