"""A call that fails is found in the task's log by the id of the request that it came from."""

from typing import Any, NoReturn, cast

import grpc
import psycopg
import pytest

from booking.bookings import Bookings
from booking.callers import Callers
from booking.servicer import BookingServicer
from booking.tickets import Tickets
from tests.unit.common.logs import Logs
from ticketra import rpc
from ticketra.booking.v1 import booking_pb2 as pb


class Aborted(Exception):  # noqa: N818 - what gRPC's own abort does
    pass


class FailingBookings:
    def __init__(self, error: Exception) -> None:
        self._error = error

    async def get(self, booking_id: str, user_id: str) -> NoReturn:
        raise self._error


class Context:
    def invocation_metadata(self) -> Any:
        return rpc.caller_metadata("gateway", "secret", "find-me")

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        raise Aborted(details)

    async def abort_with_status(self, status: Any) -> NoReturn:
        raise Aborted(status.details)


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (RuntimeError("a bug"), "ERROR"),
        (psycopg.OperationalError("away"), "WARNING"),
        (psycopg.errors.ReadOnlySqlTransaction("a replica"), "WARNING"),
        (psycopg.errors.IdleInTransactionSessionTimeout("stood still"), "WARNING"),
    ],
)
async def test_a_failed_call_is_logged_with_its_request_id(
    monkeypatch: pytest.MonkeyPatch, error: Exception, level: str
) -> None:
    logs = Logs(monkeypatch)
    bookings = cast("Bookings", FailingBookings(error))
    servicer = BookingServicer(bookings, cast("Tickets", None), Callers({"gateway": "secret"}))

    with pytest.raises(Aborted) as answer:
        await servicer.GetBooking(pb.GetBookingRequest(id="x"), cast("Any", Context()))

    (line,) = logs.lines(level)
    assert (line["request_id"], line["method"]) == ("find-me", "GetBooking")
    assert "a bug" not in str(answer.value)
