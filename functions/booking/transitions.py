"""What may become of a booking: pure functions of its present row.

Each returns a Transition, or None where the booking already is what was asked for; a refusal that
changes nothing is raised.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from booking.models import (
    CANCELLED,
    CONFIRMED,
    EXPIRED,
    ISSUE,
    PAYMENT_DECLINED,
    PAYMENT_PAID,
    PAYMENT_PENDING,
    PAYMENT_REFUNDED,
    PAYMENT_REFUNDING,
    PENDING,
    VOID,
    Booking,
    Sale,
    Transition,
)
from ticketra.errors import Conflict
from ticketra.messages import BOOKING_CANCELLED, BOOKING_CONFIRMED, BOOKING_EXPIRED

EVENT_CANCELLED = "The event was cancelled."


class SaleNeeded(Exception):  # noqa: N818 - a question, not a failure
    """The decision moves stock, so the sale has to be locked before the booking."""


def cancel(booking: Booking, reason: str) -> Transition | None:
    """The buyer gives the tickets back; what was paid is refunded.

    Raises:
        Conflict: `booking_expired`, the tickets went back on sale before.

    """
    if booking.status == CANCELLED:
        return None
    if booking.status == EXPIRED:
        raise Conflict("booking_expired", "The booking expired, and its tickets went back on sale.")
    paid = booking.status == CONFIRMED
    return Transition(
        CANCELLED,
        PAYMENT_REFUNDING if paid else booking.payment_status,
        reason,
        stock_delta=booking.ticket_count,
        routing_key=BOOKING_CANCELLED,
        tickets=VOID if paid else None,
    )


def decline(booking: Booking, reason: str) -> Transition | None:
    """The provider refused to pay: a PENDING booking is cancelled, an ended one only takes note.

    Raises:
        Conflict: `booking_confirmed`, the booking was paid.

    """
    if booking.status == CONFIRMED:
        raise Conflict("booking_confirmed", "The booking is paid and cannot be declined.")
    if booking.status == PENDING:
        return Transition(
            CANCELLED,
            PAYMENT_DECLINED,
            reason,
            stock_delta=booking.ticket_count,
            routing_key=BOOKING_CANCELLED,
        )
    if booking.payment_status == PAYMENT_PENDING:
        return Transition(booking.status, PAYMENT_DECLINED, booking.reason or reason)
    return None


def confirm(booking: Booking, sale: Sale | None, held: int) -> Transition | None:
    """The payment succeeded. An EXPIRED booking takes its tickets again, if they can be had.

    They can if enough remain and the user, who holds `held` tickets of the sale in other bookings,
    may hold that many more. A payment that came too late is remembered as refunding, so that a
    repeated call gets the same answer, even if tickets have come back since.

    Raises:
        SaleNeeded: the booking is EXPIRED and `sale` was not locked.
        Conflict: `tickets_gone` or `booking_cancelled`, as before.

    """
    if booking.status == CONFIRMED:
        return None
    if booking.status == PENDING:
        return Transition(CONFIRMED, PAYMENT_PAID, "", routing_key=BOOKING_CONFIRMED, tickets=ISSUE)
    if booking.status == CANCELLED:
        return _too_late(
            booking, Conflict("booking_cancelled", "The booking was cancelled: refund the payment.")
        )
    return _confirm_late(booking, sale, held)


def refund(booking: Booking) -> Transition | None:
    """The money of an ended booking went back.

    Raises:
        Conflict: `booking_confirmed`, the booking is sold; or `booking_pending`, it has not ended.

    """
    if booking.status == CONFIRMED:
        raise Conflict("booking_confirmed", "The booking is sold: cancel it to refund it.")
    if booking.status == PENDING:
        raise Conflict("booking_pending", "The booking still holds its tickets.")
    if booking.payment_status == PAYMENT_REFUNDED:
        return None
    return Transition(booking.status, PAYMENT_REFUNDED, booking.reason)


def expire(booking: Booking) -> Transition:
    """The hold of a PENDING booking ended."""
    return Transition(
        EXPIRED,
        booking.payment_status,
        "The hold ended before the payment did.",
        stock_delta=booking.ticket_count,
        routing_key=BOOKING_EXPIRED,
    )


def extended_hold(
    booking: Booking, now: datetime, *, hold_ttl: timedelta, hold_max: timedelta
) -> datetime | None:
    """Return until when the tickets are held from now on; None if that does not change.

    A PENDING booking is held for another `hold_ttl`, but for no longer than `hold_max` after it was
    made. A hold never gets shorter.
    """
    if booking.status != PENDING:
        return None
    until = min(now + hold_ttl, booking.created_at + hold_max)
    return until if until > booking.hold_expires_at else None


def _confirm_late(booking: Booking, sale: Sale | None, held: int) -> Transition:
    gone = Conflict(
        "tickets_gone", "The hold ended and its tickets cannot be had again: refund the payment."
    )
    if booking.payment_status != PAYMENT_PENDING:
        raise gone
    if sale is None:
        raise SaleNeeded
    total = held + booking.ticket_count
    above_limit = 0 < sale.max_per_user < total
    if sale.closed or sale.remaining < booking.ticket_count or above_limit:
        return _too_late(booking, gone)
    return Transition(
        CONFIRMED,
        PAYMENT_PAID,
        "",
        stock_delta=-booking.ticket_count,
        routing_key=BOOKING_CONFIRMED,
        tickets=ISSUE,
    )


def _too_late(booking: Booking, refusal: Conflict) -> Transition:
    if booking.payment_status != PAYMENT_PENDING:
        raise refusal
    noted = Transition(booking.status, PAYMENT_REFUNDING, booking.reason)
    return replace(noted, refusal=refusal)
