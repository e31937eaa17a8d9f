"""One attempt to bring a payment from wherever it stands to its end, one stored step at a time."""

import asyncio
from typing import Protocol
from uuid import UUID

from payment.logic import (
    Answer,
    Step,
    has_waited_long,
    hold_is_short,
    next_step,
    state_after,
    state_when_cancelled,
)
from payment.models import (
    BookingCreated,
    Outage,
    Payment,
    Received,
    State,
    UnexpectedAnswer,
    readable,
)
from payment.provider import PROVIDER_DEADLINE_S, Charge, ChargeStatus, Provider
from ticketra.ids import minted_at
from ticketra.log import logger

_ANSWER_OF = {
    ChargeStatus.PAID: Answer.CHARGE_PAID,
    ChargeStatus.DECLINED: Answer.CHARGE_DECLINED,
    ChargeStatus.REFUNDED: Answer.CHARGE_REFUNDED,
}


class Payments(Protocol):
    """Where payments are moved from state to state: `payment.store.PaymentStore`."""

    async def move(
        self, payment: Payment, state: State, reason: str, attempt: str, request_id: str
    ) -> Payment:
        """Bring a payment to `state` unless it has moved before; return it as it is now."""


class BookingService(Protocol):
    """Who holds the tickets and is told of the outcome: `payment.bookings.Bookings`."""

    async def extend_hold(self, booking_id: UUID, request_id: str) -> str:
        """Have the tickets held for longer; return why that cannot be, or nothing."""

    async def confirm(self, booking_id: UUID, request_id: str) -> tuple[Answer, str]:
        """Confirm a paid booking."""

    async def release(self, booking_id: UUID, reason: str, request_id: str) -> tuple[Answer, str]:
        """Give the tickets of a declined booking back."""

    async def record_refund(self, booking_id: UUID, request_id: str) -> Answer:
        """Say that the money of a booking has gone back."""


class Attempt:
    """What one message does for a payment; `payment` is how far it has come.

    Its methods raise Outage or UnexpectedAnswer (payment.models) where it cannot go on; the payment
    then stays where it is, and another attempt goes on from there.
    """

    def __init__(
        self,
        received: Received,
        request_id: str,
        *,
        payments: Payments,
        provider: Provider,
        bookings: BookingService,
    ) -> None:
        self.payment = received.payment
        self._received = received
        self._request_id = request_id
        self._payments = payments
        self._provider = provider
        self._bookings = bookings

    async def charge(self, booking: BookingCreated) -> None:
        """Have the booking paid, and tell booking what came of it."""
        if self.payment.state is State.STARTED:
            await self._ask_for_money(booking)
        await self._finish()

    async def refund(self, reason: str) -> None:
        """Give the money of a booking back that was confirmed and cancelled for `reason`."""
        # Again if another delivery noted in that moment that the booking was confirmed.
        while (state := state_when_cancelled(self.payment.state)) is not self.payment.state:
            await self._move(state, reason)
        await self._finish()

    async def _finish(self) -> None:
        answer: Answer | None = None
        while (step := next_step(self.payment.state, answer)) is not Step.FINISH:
            answer = await self._advance(step)

    async def _ask_for_money(self, booking: BookingCreated) -> None:
        """Learn what becomes of the charge, while the booking holds its tickets.

        The hold is extended where it may end before the attempt does, and again where the outcome
        stays open, so that it lasts until the next attempt. Booking is asked for that as well where
        the booking waited for long: who has cancelled it meanwhile need not be charged.
        """
        gone, now = "", self._received.now
        waited = has_waited_long(minted_at(booking.booking_id), now)
        if waited or hold_is_short(booking.hold_expires_at, now):
            gone = await self._bookings.extend_hold(self.payment.booking_id, self._request_id)
        # The provider cannot know a payment that did not exist before: no need to look it up.
        answer = Answer.CHARGE_UNKNOWN if self._received.started_now else None
        try:
            while self.payment.state is State.STARTED:
                step = next_step(State.STARTED, answer, booking_is_gone=bool(gone))
                answer = await self._advance(step, gone)
        except Exception:
            if not gone:
                await self._hold_on()
            raise

    async def _hold_on(self) -> None:
        """Extend the hold until the next attempt, if that can be done."""
        try:
            await self._bookings.extend_hold(self.payment.booking_id, self._request_id)
        except (Outage, UnexpectedAnswer) as error:
            logger.warning(
                "the hold was not extended",
                extra={
                    "booking_id": str(self.payment.booking_id),
                    "reason": str(error),
                    "request_id": self._request_id,
                },
            )

    async def _advance(self, step: Step, gone: str = "") -> Answer | None:
        """Take one step, store where it leads, and return the answer to go on from.

        `gone` says why the booking holds no tickets any more, if that is known.
        """
        answer, reason = await self._take(step, gone)
        state = state_after(self.payment.state, answer)
        if state is self.payment.state:
            return answer
        await self._move(state, reason or self.payment.reason)
        return None

    async def _move(self, state: State, reason: str) -> None:
        self.payment = await self._payments.move(
            self.payment, state, reason, self._received.attempt, self._request_id
        )

    async def _take(self, step: Step, gone: str) -> tuple[Answer, str]:
        """Take one step; return the answer to it and the reason to store with the payment."""
        booking_id, reason = self.payment.booking_id, self.payment.reason
        match step:
            case Step.ABANDON:
                return Answer.BOOKING_GONE, gone
            case Step.CONFIRM:
                return await self._bookings.confirm(booking_id, self._request_id)
            case Step.RELEASE:
                return await self._bookings.release(booking_id, reason, self._request_id)
            case Step.RECORD_REFUND:
                return await self._bookings.record_refund(booking_id, self._request_id), reason
            case Step.FINISH:
                raise UnexpectedAnswer("a finished payment takes no step")
            case _:
                return await self._ask_provider(step)

    async def _ask_provider(self, step: Step) -> tuple[Answer, str]:
        """Ask the provider, for at most PROVIDER_DEADLINE_S; what is late may still have happened.

        Raises:
            Outage: it did not answer, or has not decided yet.

        """
        try:
            async with asyncio.timeout(PROVIDER_DEADLINE_S):
                charge = await self._asked(step)
        except TimeoutError:
            raise Outage(f"the provider did not answer within {PROVIDER_DEADLINE_S} s") from None
        if charge is None:
            return Answer.CHARGE_UNKNOWN, ""
        if charge.status is ChargeStatus.PENDING:
            raise Outage("the provider has not decided yet")
        if step is Step.REFUND:
            return _ANSWER_OF[charge.status], self.payment.reason
        is_paid = charge.status is ChargeStatus.PAID
        return _ANSWER_OF[charge.status], "" if is_paid else readable(
            charge.reason
        ) or f"{charge.status}"

    async def _asked(self, step: Step) -> Charge | None:
        payment = self.payment
        match step:
            case Step.LOOK_UP:
                return await self._provider.look_up(payment.booking_id)
            case Step.REFUND:
                return await self._provider.refund(payment.booking_id)
            case _:
                return await self._provider.charge(
                    booking_id=payment.booking_id,
                    ticket_count=payment.ticket_count,
                    amount_minor=payment.amount_minor,
                    currency=payment.currency,
                )
