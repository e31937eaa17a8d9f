"""The gRPC side: reads requests, calls the logic, and answers in protobuf or with a refusal."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any, TypeVar

import grpc
import psycopg
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_status import rpc_status

from booking.bookings import Bookings
from booking.callers import PAYMENT, REQUEST_ID_LIMIT, Callers
from booking.decisions import busy
from booking.models import Booking, Sale, SaleTerms
from booking.tickets import Tickets
from ticketra import rpc
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.booking.v1 import booking_pb2_grpc as pb_grpc
from ticketra.database import unavailable
from ticketra.errors import FieldError, Forbidden, Invalid, Malformed, Refusal
from ticketra.log import logger
from ticketra.postgres_away import AWAY

WAIT_LIMIT_S = 5.0
STATUSES_LIMIT = 256
ANSWER_MARGIN_S = 0.2  # left of the caller's deadline for the answer to travel

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_OF_DAY = 86_400

Request = TypeVar("Request")
Response = TypeVar("Response")
Context = grpc.aio.ServicerContext[Any, Any]

_STATUS = {
    name: pb.BookingStatus.Value(f"BOOKING_STATUS_{name}")
    for name in (
        "PENDING",
        "CONFIRMED",
        "CANCELLED",
        "EXPIRED",
    )
}
_PAYMENT_STATUS = {
    name: pb.PaymentStatus.Value(f"PAYMENT_STATUS_{name.upper()}")
    for name in (
        "pending",
        "paid",
        "declined",
        "refunding",
        "refunded",
    )
}
_TICKET_STATUS = {"valid": pb.TICKET_STATUS_VALID, "void": pb.TICKET_STATUS_VOID}


def rpc_method(
    method: "Callable[[BookingServicer, Request, Context, str, str], Awaitable[Response]]",
) -> "Callable[[BookingServicer, Request, Context], Awaitable[Response]]":
    """Identify the caller, and turn refusals into statuses.

    The wrapped method also gets the caller's name and the request id.
    """
    name = method.__name__

    @wraps(method)
    async def call(self: "BookingServicer", request: Request, context: Context) -> Response:
        request_id = ""
        try:
            caller, request_id = self.callers.identify(name, context.invocation_metadata() or ())
            return await method(self, request, context, caller, request_id)
        except Refusal as error:
            # Only the status is kept: an exception in a variable and its traceback are a cycle, and
            # a flood of refusals would keep the garbage collector busy.
            status = self.statuses.of(error)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            status = self.statuses.of(busy())
        except AWAY:
            logger.warning(
                "PostgreSQL failed a call",
                extra={"method": name, "request_id": request_id},
                exc_info=True,
            )
            status = self.statuses.of(unavailable())
        except Exception:  # noqa: BLE001 - the entry point: log with context, hide from the caller
            logger.exception("a call failed", extra={"method": name, "request_id": request_id})
            await context.abort(grpc.StatusCode.INTERNAL, "Something went wrong on our side.")
        await context.abort_with_status(status)
        raise AssertionError  # abort has raised

    return call


class Statuses:
    """Turns refusals into statuses; those without field errors are kept, as they come in floods."""

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], Any] = {}

    def of(self, refusal: Refusal) -> Any:
        """Return the status of `refusal`, with its details."""
        if refusal.errors:
            return rpc_status.to_status(rpc.to_status(refusal))
        key = (refusal.code, refusal.detail, refusal.retry_after_s, refusal.available)
        status = self._kept.get(key)
        if status is None:
            status = rpc_status.to_status(rpc.to_status(refusal))
            if len(self._kept) < STATUSES_LIMIT:
                self._kept[key] = status
        return status


def unreadable() -> Any:
    """Return the status of bytes that are no message, or of a string that is not UTF-8."""
    refusal = Malformed(
        "malformed_request", "The request is not a message of the contract, encoded in UTF-8."
    )
    return rpc_status.to_status(rpc.to_status(refusal))


class BookingServicer(pb_grpc.BookingServiceServicer):
    """Implements proto/ticketra/booking/v1/booking.proto."""

    def __init__(self, bookings: Bookings, tickets: Tickets, callers: Callers) -> None:
        self._bookings = bookings
        self._tickets = tickets
        self.callers = callers
        self.statuses = Statuses()

    @rpc_method
    async def CreateBooking(  # noqa: N802, D102 - the contract's names
        self, request: pb.CreateBookingRequest, context: Context, _: str, request_id: str
    ) -> pb.CreateBookingResponse:
        remaining_s = context.time_remaining()
        wait_s = WAIT_LIMIT_S if remaining_s is None else min(WAIT_LIMIT_S, remaining_s)
        booking, replayed = await self._bookings.create(
            request.event_id,
            request.user_id,
            request.ticket_count,
            request.idempotency_key,
            key_is_fresh=request.key_is_fresh,
            request_id=request_id,
            wait_s=wait_s - ANSWER_MARGIN_S,
        )
        return pb.CreateBookingResponse(booking=_booking(booking), replayed=replayed)

    @rpc_method
    async def GetBooking(  # noqa: N802, D102
        self, request: pb.GetBookingRequest, _: Context, __: str, ___: str
    ) -> pb.Booking:
        return _booking(await self._bookings.get(request.id, request.user_id))

    @rpc_method
    async def ListBookings(  # noqa: N802, D102
        self, request: pb.ListBookingsRequest, _: Context, __: str, ___: str
    ) -> pb.ListBookingsResponse:
        page, next_cursor = await self._bookings.list_of_user(
            request.user_id, request.page_size, request.cursor
        )
        return pb.ListBookingsResponse(
            bookings=[_booking(booking) for booking in page], next_cursor=next_cursor
        )

    @rpc_method
    async def CancelBooking(  # noqa: N802, D102
        self, request: pb.CancelBookingRequest, _: Context, caller: str, request_id: str
    ) -> pb.Booking:
        if request.payment_declined and caller != PAYMENT:
            raise Forbidden("caller_not_allowed", f"{caller} may not decline a payment.")
        booking = await self._bookings.cancel(
            request.id,
            request.user_id,
            request.reason,
            payment_declined=request.payment_declined,
            request_id=request_id,
        )
        return _booking(booking)

    @rpc_method
    async def ConfirmBooking(  # noqa: N802, D102
        self, request: pb.ConfirmBookingRequest, _: Context, __: str, request_id: str
    ) -> pb.Booking:
        return _booking(await self._bookings.confirm(request.id, request_id))

    @rpc_method
    async def BatchConfirmBookings(  # noqa: N802, D102
        self, request: pb.BatchConfirmBookingsRequest, _: Context, __: str, ___: str
    ) -> pb.BatchConfirmBookingsResponse:
        confirmed = await self._bookings.confirm_batch(
            [(one.id, one.request_id[:REQUEST_ID_LIMIT]) for one in request.confirmations]
        )
        return pb.BatchConfirmBookingsResponse(confirmed_ids=confirmed)

    @rpc_method
    async def ExtendHold(  # noqa: N802, D102
        self, request: pb.ExtendHoldRequest, _: Context, __: str, ___: str
    ) -> pb.Booking:
        return _booking(await self._bookings.extend_hold(request.id))

    @rpc_method
    async def RecordRefund(  # noqa: N802, D102
        self, request: pb.RecordRefundRequest, _: Context, __: str, request_id: str
    ) -> pb.Booking:
        return _booking(await self._bookings.record_refund(request.id, request_id))

    @rpc_method
    async def ListTickets(  # noqa: N802, D102
        self, request: pb.ListTicketsRequest, _: Context, __: str, ___: str
    ) -> pb.ListTicketsResponse:
        page, next_after = await self._tickets.list_of(
            request.booking_id, request.user_id, request.page_size, request.after
        )
        return pb.ListTicketsResponse(
            tickets=[
                pb.Ticket(
                    id=ticket.id,
                    booking_id=ticket.booking_id,
                    number=ticket.number,
                    code=code,
                    status=_TICKET_STATUS[ticket.status],
                )
                for ticket, code in page
            ],
            next_after=next_after,
        )

    @rpc_method
    async def PutSale(  # noqa: N802, D102
        self, request: pb.PutSaleRequest, _: Context, __: str, ___: str
    ) -> pb.Sale:
        terms = _terms(request.terms)
        return _sale(await self._bookings.put_sale(request.event_id, request.version, terms))

    @rpc_method
    async def CloseSale(  # noqa: N802, D102
        self, request: pb.CloseSaleRequest, _: Context, __: str, request_id: str
    ) -> pb.Sale:
        return _sale(await self._bookings.close_sale(request.event_id, request.version, request_id))

    @rpc_method
    async def GetAvailability(  # noqa: N802, D102
        self, request: pb.GetAvailabilityRequest, _: Context, __: str, ___: str
    ) -> pb.GetAvailabilityResponse:
        remaining = await self._bookings.availability(list(request.event_ids))
        return pb.GetAvailabilityResponse(remaining=remaining)


def _booking(booking: Booking) -> pb.Booking:
    return pb.Booking(
        id=booking.id,
        event_id=booking.event_id,
        user_id=booking.user_id,
        ticket_count=booking.ticket_count,
        amount=pb.Money(amount_minor=booking.amount_minor, currency=booking.currency),
        status=_STATUS[booking.status],
        payment_status=_PAYMENT_STATUS[booking.payment_status],
        reason=booking.reason,
        hold_expires_at=_timestamp(booking.hold_expires_at),
        created_at=_timestamp(booking.created_at),
        updated_at=_timestamp(booking.updated_at),
    )


def _sale(sale: Sale) -> pb.Sale:
    terms = pb.SaleTerms(
        capacity=sale.capacity,
        price=pb.Money(amount_minor=sale.price_amount_minor, currency=sale.price_currency),
        max_per_booking=sale.max_per_booking,
        max_per_user=sale.max_per_user,
        sales_start=None if sale.sales_start is None else _timestamp(sale.sales_start),
        sales_end=None if sale.sales_end is None else _timestamp(sale.sales_end),
    )
    return pb.Sale(
        event_id=sale.event_id,
        version=sale.version,
        terms=terms,
        remaining=sale.remaining,
        closed=sale.closed,
    )


def _terms(terms: pb.SaleTerms) -> SaleTerms:
    return SaleTerms(
        terms.capacity,
        terms.price.amount_minor,
        terms.price.currency,
        _time(terms, "sales_start"),
        _time(terms, "sales_end"),
        terms.max_per_booking,
        terms.max_per_user,
    )


def _time(terms: pb.SaleTerms, field: str) -> datetime | None:
    if not terms.HasField(field):  # type: ignore[arg-type]
        return None
    try:
        moment: datetime = getattr(terms, field).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise Invalid(
            "validation_failed",
            "Some fields are missing or wrong: see errors.",
            errors=[FieldError(f"terms.{field}", "must be a time between the years 1 and 9999")],
        ) from None
    return moment


def _timestamp(moment: datetime) -> Timestamp:
    # Timestamp.FromDatetime does the same, at several times the cost.
    since = moment - _EPOCH
    return Timestamp(
        seconds=since.days * _SECONDS_OF_DAY + since.seconds, nanos=since.microseconds * 1_000
    )
