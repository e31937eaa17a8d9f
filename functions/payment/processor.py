"""Takes a payment from wherever it stands to its end, one stored step at a time."""

from typing import Protocol
from uuid import UUID

from payment.logic import Answer, Step, hold_is_short, next_step, state_after
from payment.models import (
    BookingCreated,
    Outage,
    Payment,
    Received,
    State,
    UnexpectedAnswer,
    read_booking_created,
    read_message_id,
)
from payment.provider import Charge, ChargeStatus, Provider
from ticketra.log import logger

_ANSWER_OF = {
    ChargeStatus.PAID: Answer.CHARGE_PAID,
    ChargeStatus.DECLINED: Answer.CHARGE_DECLINED,
    ChargeStatus.REFUNDED: Answer.CHARGE_REFUNDED,
}


class Payments(Protocol):
    """Where payments are kept: `payment.store.PaymentStore`."""

    def record(self, message_id: str, booking: BookingCreated) -> Received:
        """Return the payment of a booking, which is started if there is none."""

    def move(self, payment: Payment, state: State, reason: str) -> Payment:
        """Bring a payment to `state` unless it has moved before; return it as it is now."""


class BookingService(Protocol):
    """Who holds the tickets and is told of the outcome: `payment.bookings.Bookings`."""

    def extend_hold(self, booking_id: UUID, request_id: str) -> str:
        """Have the tickets held for longer; return why that cannot be, or nothing."""

    def confirm(self, booking_id: UUID, request_id: str) -> tuple[Answer, str]:
        """Confirm a paid booking."""

    def release(self, booking_id: UUID, reason: str, request_id: str) -> tuple[Answer, str]:
        """Give the tickets of a declined booking back."""


class PaymentProcessor:
    """Handles one booking.created message; safe to share between threads.

    Whatever it raises, the same message may be handled again, at once or later, here or elsewhere:
    each step is repeatable, and a step that was taken is stored before the next one.
    """

    def __init__(self, payments: Payments, provider: Provider, bookings: BookingService) -> None:
        self._payments = payments
        self._provider = provider
        self._bookings = bookings

    def handle(self, message_id: str | None, body: bytes) -> None:
        """Bring the payment that a message asks for to a final state.

        Raises:
            Unparseable: the message says nothing that can be acted on.
            Outage: something that is needed is away; the payment stays where it got to.
            UnexpectedAnswer: a service broke its contract; the payment stays where it got to.

        """
        message_id = read_message_id(message_id)
        booking = read_booking_created(body)
        received = self._payments.record(message_id, booking)
        payment = received.payment
        if payment.state is State.STARTED:
            payment = self._attempt(received, booking)
        answer: Answer | None = None
        while (step := next_step(payment.state, answer)) is not Step.FINISH:
            payment, answer = self._advance(step, payment, booking.request_id)
        logger.info(
            "payment finished",
            extra={
                "booking_id": str(payment.booking_id),
                "payment_state": payment.state,
                "request_id": booking.request_id,
            },
        )

    def _attempt(self, received: Received, booking: BookingCreated) -> Payment:
        """Learn what becomes of the charge, while the booking holds its tickets.

        The hold is extended where it may end before the attempt does, and again where the outcome
        stays open, so that it lasts until the next attempt.
        """
        payment, request_id = received.payment, booking.request_id
        gone = ""
        if hold_is_short(booking.hold_expires_at, received.now):
            gone = self._bookings.extend_hold(payment.booking_id, request_id)
        # The provider cannot know a payment that did not exist before: no need to look it up.
        answer = Answer.CHARGE_UNKNOWN if received.started_now else None
        try:
            while payment.state is State.STARTED:
                step = next_step(payment.state, answer, booking_is_gone=bool(gone))
                payment, answer = self._advance(step, payment, request_id, gone)
        except (Outage, UnexpectedAnswer):
            if not gone:
                self._hold_on(payment, request_id)
            raise
        return payment

    def _hold_on(self, payment: Payment, request_id: str) -> None:
        """Extend the hold until the next attempt, if that can be done."""
        try:
            self._bookings.extend_hold(payment.booking_id, request_id)
        except (Outage, UnexpectedAnswer) as error:
            logger.warning(
                "the hold was not extended",
                extra={
                    "booking_id": str(payment.booking_id),
                    "reason": str(error),
                    "request_id": request_id,
                },
            )

    def _advance(
        self, step: Step, payment: Payment, request_id: str, gone: str = ""
    ) -> tuple[Payment, Answer | None]:
        """Take one step and store where it leads; return the payment, and the answer to go on from.

        `gone` says why the booking holds no tickets any more, if that is known.
        """
        answer, reason = self._take(step, payment, request_id, gone)
        state = state_after(payment.state, answer)
        if state is payment.state:
            return payment, answer
        return self._payments.move(payment, state, reason or payment.reason), None

    def _take(self, step: Step, payment: Payment, request_id: str, gone: str) -> tuple[Answer, str]:
        """Take one step; return the answer to it and the reason to store with the payment."""
        match step:
            case Step.LOOK_UP:
                return _answer(self._provider.look_up(payment.booking_id))
            case Step.CHARGE:
                return _answer(
                    self._provider.charge(
                        booking_id=payment.booking_id,
                        ticket_count=payment.ticket_count,
                        amount_minor=payment.amount_minor,
                        currency=payment.currency,
                    )
                )
            case Step.ABANDON:
                return Answer.BOOKING_GONE, gone
            case Step.CONFIRM:
                return self._bookings.confirm(payment.booking_id, request_id)
            case Step.RELEASE:
                return self._bookings.release(payment.booking_id, payment.reason, request_id)
            case Step.REFUND:
                answer, _ = _answer(self._provider.refund(payment.booking_id))
                return answer, payment.reason
            case Step.FINISH:
                raise UnexpectedAnswer("a finished payment takes no step")


def _answer(charge: Charge | None) -> tuple[Answer, str]:
    if charge is None:
        return Answer.CHARGE_UNKNOWN, ""
    reason = "" if charge.status is ChargeStatus.PAID else charge.reason or f"{charge.status}"
    return _ANSWER_OF[charge.status], reason
