"""A booking service on loopback that answers payment as a test tells it to."""

import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import grpc
from grpc_status import rpc_status

from ticketra import errors, rpc
from ticketra.booking.v1 import booking_pb2, booking_pb2_grpc

CREDENTIAL = "payment-credential-of-the-tests"
HOLD_LIMIT_S = 30


class FakeBooking(booking_pb2_grpc.BookingServiceServicer):
    """Keeps what it was asked; extends, confirms and cancels unless told otherwise.

    `statuses` says what has become of a booking by the time that its hold is to be extended.
    """

    def __init__(self, port: int) -> None:
        self.endpoint = f"127.0.0.1:{port}"
        self.may_answer = threading.Event()
        self._server: grpc.Server | None = None
        self.forget()

    def forget(self) -> None:
        """Answer as at first, and keep nothing of what it was asked."""
        self.batch_sizes: list[int] = []
        self.confirmed: dict[UUID, int] = defaultdict(int)
        self.cancelled: dict[UUID, list[str]] = defaultdict(list)
        self.extended: dict[UUID, int] = defaultdict(int)
        self.refunded: dict[UUID, int] = defaultdict(int)
        self.statuses: dict[UUID, booking_pb2.BookingStatus.ValueType] = {}
        self.refusals: dict[UUID, errors.Refusal] = {}
        self.may_answer.set()

    def start(self) -> None:
        """Serve, unless it does."""
        if self._server is not None:
            return
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        booking_pb2_grpc.add_BookingServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.endpoint)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    def ExtendHold(  # noqa: N802 - the contract's name
        self, request: booking_pb2.ExtendHoldRequest, context: grpc.ServicerContext
    ) -> booking_pb2.Booking:
        booking_id = self._admit(request.id, context)
        self.extended[booking_id] += 1
        status = self.statuses.get(booking_id, booking_pb2.BOOKING_STATUS_PENDING)
        return booking_pb2.Booking(id=request.id, status=status)

    def ConfirmBooking(  # noqa: N802
        self, request: booking_pb2.ConfirmBookingRequest, context: grpc.ServicerContext
    ) -> booking_pb2.Booking:
        booking_id = self._admit(request.id, context)
        self.confirmed[booking_id] += 1
        self.may_answer.wait(HOLD_LIMIT_S)
        return booking_pb2.Booking(id=request.id, status=booking_pb2.BOOKING_STATUS_CONFIRMED)

    def BatchConfirmBookings(  # noqa: N802
        self, request: booking_pb2.BatchConfirmBookingsRequest, context: grpc.ServicerContext
    ) -> booking_pb2.BatchConfirmBookingsResponse:
        self._identify(context)
        self.batch_sizes.append(len(request.confirmations))
        free = [one.id for one in request.confirmations if UUID(one.id) not in self.refusals]
        for booking_id in free:
            self.confirmed[UUID(booking_id)] += 1
        self.may_answer.wait(HOLD_LIMIT_S)
        return booking_pb2.BatchConfirmBookingsResponse(confirmed_ids=free)

    def CancelBooking(  # noqa: N802
        self, request: booking_pb2.CancelBookingRequest, context: grpc.ServicerContext
    ) -> booking_pb2.Booking:
        booking_id = self._admit(request.id, context)
        assert request.payment_declined
        self.cancelled[booking_id].append(request.reason)
        return booking_pb2.Booking(id=request.id, status=booking_pb2.BOOKING_STATUS_CANCELLED)

    def RecordRefund(  # noqa: N802
        self, request: booking_pb2.RecordRefundRequest, context: grpc.ServicerContext
    ) -> booking_pb2.Booking:
        booking_id = self._admit(request.id, context)
        self.refunded[booking_id] += 1
        return booking_pb2.Booking(id=request.id, status=booking_pb2.BOOKING_STATUS_CANCELLED)

    def _admit(self, booking_id: str, context: grpc.ServicerContext) -> UUID:
        self._identify(context)
        refusal = self.refusals.get(UUID(booking_id))
        if refusal is not None:
            context.abort_with_status(rpc_status.to_status(rpc.to_status(refusal)))
        return UUID(booking_id)

    def _identify(self, context: grpc.ServicerContext) -> None:
        metadata = dict(context.invocation_metadata())
        caller = (metadata.get(rpc.CALLER_KEY), metadata.get(rpc.CREDENTIAL_KEY))
        if caller != ("payment", CREDENTIAL):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
