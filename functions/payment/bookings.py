"""How the payment worker tells the booking service what became of a payment, over gRPC."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import grpc

from payment.logic import Answer
from payment.models import Outage, UnexpectedAnswer
from ticketra import rpc
from ticketra.booking.v1 import booking_pb2
from ticketra.booking.v1.booking_pb2_grpc import BookingServiceStub
from ticketra.errors import Busy, Forbidden, TooManyRequests, Unauthenticated, Unavailable
from ticketra.group_commit import GroupCommit

CALLER = "payment"
CALL_DEADLINE_S = 5
CONFIRMATIONS_LIMIT = 500  # of a batch, as the contract has it
# A connection that died unnoticed would keep calls waiting for as long as TCP is patient.
KEEPALIVE_S = 10
KEEPALIVE_WAIT_S = 2

# What time or an operator heals. Wrong credentials and a missing method are among it: a secret or a
# deployment that is not yet the same on both sides.
_OUTAGES = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
_ENDED = {
    booking_pb2.BOOKING_STATUS_CANCELLED: "The booking was cancelled before it was paid.",
    booking_pb2.BOOKING_STATUS_EXPIRED: "The booking expired before it was paid.",
}
# Refusals that say that a booking can never be confirmed, or holds no tickets any more.
_GONE = frozenset({"tickets_gone", "booking_cancelled", "booking_not_found"})


Confirmation = booking_pb2.BatchConfirmBookingsRequest.Confirmation
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
if TYPE_CHECKING:  # at run time the class takes no parameters
    Method = grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT]


class Bookings:
    """The calls of the booking service that payment makes; all share one channel.

    Each raises payment.models.Outage when booking is away for the moment, and
    payment.models.UnexpectedAnswer when it says something that its contract does not allow.
    """

    def __init__(self, endpoint: str, credential: str) -> None:
        self._channel = grpc.aio.insecure_channel(endpoint, options=_channel_options())
        self._stub = BookingServiceStub(self._channel)
        self._credential = credential
        self._batches = GroupCommit(
            self._confirm_batch, divides=lambda _: False, limit=CONFIRMATIONS_LIMIT
        )

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def extend_hold(self, booking_id: UUID, request_id: str) -> str:
        """Have the tickets of a booking held for longer; return why that cannot be, or nothing.

        A booking that is confirmed keeps its tickets, and needs no hold.
        """
        request = booking_pb2.ExtendHoldRequest(id=str(booking_id))
        try:
            booking = await self._call(self._stub.ExtendHold, request, request_id)
        except _BookingGone as gone:
            return str(gone)
        if booking.status in _ENDED:
            return _ENDED[booking.status]
        _expect(booking, booking_pb2.BOOKING_STATUS_PENDING, booking_pb2.BOOKING_STATUS_CONFIRMED)
        return ""

    async def confirm(self, booking_id: UUID, request_id: str) -> tuple[Answer, str]:
        """Confirm a paid booking; return the answer, and the reason if the booking is gone.

        It goes with what else is to be confirmed at the time; alone if that did not confirm it.
        """
        if await self._batches.submit(Confirmation(id=str(booking_id), request_id=request_id)):
            return Answer.BOOKING_CONFIRMED, ""
        request = booking_pb2.ConfirmBookingRequest(id=str(booking_id))
        try:
            booking = await self._call(self._stub.ConfirmBooking, request, request_id)
        except _BookingGone as gone:
            return Answer.BOOKING_GONE, str(gone)
        _expect(booking, booking_pb2.BOOKING_STATUS_CONFIRMED)
        return Answer.BOOKING_CONFIRMED, ""

    async def release(self, booking_id: UUID, reason: str, request_id: str) -> tuple[Answer, str]:
        """Give the tickets of a booking back whose payment was declined for `reason`.

        A booking that was cancelled or has expired before holds none: that is as good.
        """
        request = booking_pb2.CancelBookingRequest(
            id=str(booking_id), reason=reason, payment_declined=True
        )
        try:
            booking = await self._call(self._stub.CancelBooking, request, request_id)
        except _BookingGone:
            return Answer.BOOKING_RELEASED, reason
        _expect(booking, booking_pb2.BOOKING_STATUS_CANCELLED, booking_pb2.BOOKING_STATUS_EXPIRED)
        return Answer.BOOKING_RELEASED, reason

    async def record_refund(self, booking_id: UUID, request_id: str) -> Answer:
        """Say that the money of a booking, if it is still known, has gone back."""
        request = booking_pb2.RecordRefundRequest(id=str(booking_id))
        try:
            booking = await self._call(self._stub.RecordRefund, request, request_id)
        except _BookingGone:
            return Answer.REFUND_RECORDED
        _expect(booking, booking_pb2.BOOKING_STATUS_CANCELLED, booking_pb2.BOOKING_STATUS_EXPIRED)
        return Answer.REFUND_RECORDED

    async def _confirm_batch(self, batch: Sequence[Confirmation]) -> list[bool]:
        request = booking_pb2.BatchConfirmBookingsRequest(confirmations=batch)
        answer = await self._call(self._stub.BatchConfirmBookings, request)
        confirmed = frozenset(answer.confirmed_ids)
        return [confirmation.id in confirmed for confirmation in batch]

    async def _call(
        self,
        method: "Method[RequestT, ResponseT]",
        request: RequestT,
        request_id: str | None = None,
    ) -> ResponseT:
        metadata = rpc.caller_metadata(CALLER, self._credential, request_id)
        with _errors_sorted():
            return await method(request, timeout=CALL_DEADLINE_S, metadata=metadata)


def _channel_options() -> list[tuple[str, int]]:
    return [
        # A task that was restarted is found again within a second, not after growing pauses.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.enable_retries", 0),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_WAIT_S * 1000),
        # The library measures with pings of its own, and none follows one without an answer.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_WAIT_S * 1000),
    ]


class _BookingGone(Exception):  # noqa: N818 - says what happened
    """There is no booking to act on any more; the text is booking's own reason."""


@contextmanager
def _errors_sorted() -> Iterator[None]:
    """Tell what is away from what is gone and from what should never have been answered."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        refusal = rpc.to_refusal(error)
        if refusal is None or isinstance(refusal, Unauthenticated | Forbidden):
            if error.code() in _OUTAGES:
                raise Outage(f"booking is away: {error.code().name}") from error
            raise UnexpectedAnswer(f"booking answered {error.code().name}") from error
        if isinstance(refusal, Busy | TooManyRequests | Unavailable):
            raise Outage(f"booking is away: {refusal.code}") from error
        if refusal.code in _GONE:
            raise _BookingGone(refusal.detail) from error
        raise UnexpectedAnswer(f"booking answered {refusal.code}") from error


def _expect(booking: booking_pb2.Booking, *statuses: "booking_pb2.BookingStatus.ValueType") -> None:
    if booking.status not in statuses:
        name = booking_pb2.BookingStatus.Name(booking.status)
        raise UnexpectedAnswer(f"booking answered with a booking that is {name}")
