"""The messages about bookings once more, for the work queue of the payment worker alone."""

from payment.reconcile_store import Entry
from ticketra import messages
from ticketra.broker import Publication
from ticketra.ids import IdSource

SOURCE = "/ticketra/payment/reconcile"


def message(entry: Entry, routing_key: str, mint_id: IdSource) -> Publication:
    """Return `booking.created` or `booking.cancelled` of a booking, as far as payment reads it.

    The first has the id that it had when the booking was made, which is the booking's own. The
    second asks for the money back, whatever the booking says of its payment by now.
    """
    booking_id = str(entry.booking_id)
    body: dict[str, object] = {"booking_id": booking_id, "request_id": ""}
    if routing_key == messages.BOOKING_CREATED:
        queue, message_id = messages.CHARGE_QUEUE, booking_id
        body |= {
            "ticket_count": entry.ticket_count,
            "amount_minor": entry.amount_minor,
            "currency": entry.currency,
            "hold_expires_at": entry.hold_expires_at.isoformat(),
        }
    else:
        queue, message_id = messages.REFUND_QUEUE, mint_id()
        body |= {"payment_status": "refunding", "reason": entry.reason}
    return Publication(
        queue,
        messages.encode(body),
        messages.properties(
            message_id=message_id,
            routing_key=routing_key,
            source=SOURCE,
            subject=booking_id,
            time=entry.seen_at,
        ),
        mandatory=True,
        exchange="",
    )
