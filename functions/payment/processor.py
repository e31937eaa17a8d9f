"""Has messages about bookings do for their payments what they ask for, once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from payment import attempt
from payment.attempt import Attempt, BookingService
from payment.models import (
    BookingCancelled,
    BookingCreated,
    Outage,
    Received,
    State,
    UnexpectedAnswer,
    read_body,
    read_message_id,
    readable,
)
from payment.provider import Provider
from ticketra.log import logger


class Payments(attempt.Payments, Protocol):
    """Where messages, payments and attempts are kept: `payment.store.PaymentStore`."""

    async def record(self, message_id: str, booking: BookingCreated) -> Received:
        """Return the payment of a booking, which is started if there is none."""

    async def record_cancellation(self, message_id: str, booking_id: UUID) -> Received | None:
        """Return the payment of a booking, if there is one."""

    async def end_attempt(self, attempt: str, state: State, failure: str) -> None:
        """Say where an attempt left its payment, and what kept it from getting further."""


@dataclass
class _Turn:
    """Whose turn it is with a booking, and how many want to have it or have it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wanted: int = 0


class PaymentProcessor:
    """Handles many messages at once, but those of one booking one by one.

    Whatever it raises, the same message may be handled again, at once or later, here or elsewhere:
    each step is repeatable, and a step that was taken is stored before the next one.
    """

    def __init__(self, payments: Payments, provider: Provider, bookings: BookingService) -> None:
        self._payments = payments
        self._provider = provider
        self._bookings = bookings
        self._in_hand: dict[UUID, _Turn] = {}

    async def charge(self, message_id: str | None, body: bytes) -> None:
        """Bring the payment that a booking.created message asks for to a final state.

        Raises:
            Unparseable: the message says nothing that can be acted on.
            Outage: something that is needed is away; the payment stays where it got to.
            UnexpectedAnswer: a service broke its contract; the payment stays where it got to.

        """
        message_id = read_message_id(message_id)
        booking = read_body(BookingCreated, body)
        async with self._alone(booking.booking_id):
            received = await self._payments.record(message_id, booking)
            await self._attempt(received, booking.request_id, lambda a: a.charge(booking))

    async def refund(self, message_id: str | None, body: bytes) -> None:
        """Give the money back of a booking that was confirmed, as a booking.cancelled says.

        Raises:
            Unparseable, Outage, UnexpectedAnswer: as `charge`.

        """
        message_id = read_message_id(message_id)
        booking = read_body(BookingCancelled, body)
        if booking.payment_status != "refunding":
            return  # nothing was paid; or who charged finds the booking gone, and refunds
        async with self._alone(booking.booking_id):
            received = await self._payments.record_cancellation(message_id, booking.booking_id)
            if received is None:
                raise UnexpectedAnswer("a booking was confirmed and cancelled without a payment")
            await self._attempt(received, booking.request_id, lambda a: a.refund(booking.reason))

    async def _attempt(
        self, received: Received, request_id: str, act: Callable[[Attempt], Awaitable[None]]
    ) -> None:
        attempt = Attempt(
            received,
            request_id,
            payments=self._payments,
            provider=self._provider,
            bookings=self._bookings,
        )
        about = {"booking_id": str(received.payment.booking_id), "request_id": request_id}
        try:
            await act(attempt)
        except Exception as error:
            failure = readable(str(error) or repr(error))
            await self._note_failure(received.attempt, attempt.payment.state, failure, about)
            raise
        state = attempt.payment.state
        if state is received.payment.state:  # no move has ended the attempt
            await self._payments.end_attempt(received.attempt, state, "")
        # What goes well is the rule, and a line of it would cost a quarter of the payment.
        log = logger.debug if state is State.SUCCEEDED else logger.info
        log("payment finished", extra={**about, "payment_state": state})

    async def _note_failure(
        self, attempt: str, state: State, failure: str, about: dict[str, str]
    ) -> None:
        """Note why an attempt failed, if that can be done: nothing depends on it."""
        try:
            await self._payments.end_attempt(attempt, state, failure)
        except Outage as error:
            logger.warning("an attempt was not ended", extra={**about, "reason": str(error)})

    @asynccontextmanager
    async def _alone(self, booking_id: UUID) -> AsyncIterator[None]:
        """Wait until no other message about the booking is in hand here."""
        turn = self._in_hand.setdefault(booking_id, _Turn())
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._in_hand[booking_id]
