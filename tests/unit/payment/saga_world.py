"""The worker's processor between a bank and a booking that obeys booking's own transitions."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from booking import transitions
from booking.models import Booking, Sale, Transition
from payment.logic import Answer
from payment.models import BookingCreated, Payment, Received, State, UnexpectedAnswer
from payment.processor import PaymentProcessor
from payment.provider import Charge, ChargeStatus
from payment.verdicts import BookingStatus, Standing
from ticketra.errors import Conflict
from ticketra.messages import BOOKING_CREATED

BOOKING_ID = UUID("0193a5d0-0000-7000-8000-000000000001")
NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ENDED = "The booking has ended."
ANSWER_OF: dict[ChargeStatus | None, Answer] = {
    ChargeStatus.PAID: Answer.CHARGE_PAID,
    ChargeStatus.DECLINED: Answer.CHARGE_DECLINED,
    ChargeStatus.REFUNDED: Answer.CHARGE_REFUNDED,
}


@dataclass
class World:
    """One booking, its payment and its charge, which the bank decides to be `outcome`."""

    booking: Booking | None
    payment: Payment | None
    charge: Charge | None
    outcome: ChargeStatus
    remaining: int
    hold_left: timedelta

    @classmethod
    def standing_as(
        cls, standing: Standing, *, outcome: ChargeStatus, remaining: int, hold_left: timedelta
    ) -> "World":
        status, payment_status, state, charge = standing
        return cls(
            booking_that_is(status, payment_status) if status and payment_status else None,
            Payment(BOOKING_ID, 2, 200, "EUR", state, "") if state else None,
            Charge(charge) if charge else None,
            outcome,
            remaining,
            hold_left,
        )

    @property
    def standing(self) -> Standing:
        return Standing(
            BookingStatus(self.booking.status) if self.booking else None,
            self.booking.payment_status if self.booking else None,
            self.payment.state if self.payment else None,
            self.charge.status if self.charge else None,
        )

    async def deliver(self, routing_key: str) -> None:
        """Have the worker handle a message about the booking, as reconcile publishes it."""
        body = {
            "booking_id": str(BOOKING_ID),
            "ticket_count": 2,
            "amount_minor": 200,
            "currency": "EUR",
            "hold_expires_at": (NOW + self.hold_left).isoformat(),
            "payment_status": "refunding",
        }
        processor = PaymentProcessor(Payments(self), Bank(self), BookingService(self))
        handle = processor.charge if routing_key == BOOKING_CREATED else processor.refund
        await handle("m-1", json.dumps(body).encode())

    def change(self, decide: Callable[[Booking], Transition | None]) -> Booking:
        """Change the booking by one of booking's own decisions; raise what it refuses."""
        assert self.booking is not None
        transition = decide(self.booking)
        if transition is not None:
            self.booking = transition.apply(self.booking, NOW)
            self.remaining += transition.stock_delta
            if transition.refusal is not None:
                raise transition.refusal
        return self.booking


def sale_with(remaining: int) -> Sale:
    return Sale("e", 1, 10, remaining, 100, "EUR", None, None, 0, 0, closed=False, stock_version=0)


def booking_that_is(status: str, payment_status: str) -> Booking:
    return Booking(
        str(BOOKING_ID), "e", "u", 2, 200, "EUR", status, payment_status, "", NOW, NOW, NOW
    )


@dataclass
class Payments:
    world: World

    async def record(self, message_id: str, booking: BookingCreated) -> Received:
        started = self.world.payment is None
        self.world.payment = self.world.payment or Payment(
            BOOKING_ID, 2, 200, "EUR", State.STARTED, ""
        )
        return Received(self.world.payment, "a-1", started, NOW)

    async def record_cancellation(self, message_id: str, booking_id: UUID) -> Received | None:
        payment = self.world.payment
        return None if payment is None else Received(payment, "a-1", False, NOW)

    async def move(
        self, payment: Payment, state: State, reason: str, attempt: str, request_id: str
    ) -> Payment:
        self.world.payment = replace(payment, state=state, reason=reason)
        return self.world.payment

    async def end_attempt(self, attempt: str, state: State, failure: str) -> None:
        """Nothing depends on it."""


@dataclass
class Bank:
    world: World

    async def charge(
        self, *, booking_id: UUID, ticket_count: int, amount_minor: int, currency: str
    ) -> Charge:
        self.world.charge = self.world.charge or Charge(self.world.outcome)
        return self.world.charge

    async def look_up(self, booking_id: UUID) -> Charge | None:
        return self.world.charge

    async def refund(self, booking_id: UUID) -> Charge:
        charge = self.world.charge
        if charge is None:
            raise UnexpectedAnswer("the bank has no such charge")
        if charge.status is ChargeStatus.PAID:
            self.world.charge = charge = Charge(ChargeStatus.REFUNDED)
        return charge


@dataclass
class BookingService:
    """What `payment.bookings.Bookings` makes of the answers of booking's transitions."""

    world: World

    async def extend_hold(self, booking_id: UUID, request_id: str) -> str:
        booking = self.world.booking
        holds = booking is not None and booking.status in ("PENDING", "CONFIRMED")
        return "" if holds else ENDED

    async def confirm(self, booking_id: UUID, request_id: str) -> tuple[Answer, str]:
        if self.world.booking is None:
            return Answer.BOOKING_GONE, ENDED
        try:
            self.world.change(
                lambda booking: transitions.confirm(booking, sale_with(self.world.remaining), 0)
            )
        except Conflict as refusal:
            return Answer.BOOKING_GONE, refusal.detail
        return Answer.BOOKING_CONFIRMED, ""

    async def release(self, booking_id: UUID, reason: str, request_id: str) -> tuple[Answer, str]:
        if self.world.booking is not None:
            self._change(lambda booking: transitions.decline(booking, reason))
        return Answer.BOOKING_RELEASED, reason

    async def record_refund(self, booking_id: UUID, request_id: str) -> Answer:
        if self.world.booking is not None:
            self._change(transitions.refund)
        return Answer.REFUND_RECORDED

    def _change(self, decide: Callable[[Booking], Transition | None]) -> None:
        try:
            self.world.change(decide)
        except Conflict as refusal:
            raise UnexpectedAnswer(f"booking answered {refusal.code}") from refusal
