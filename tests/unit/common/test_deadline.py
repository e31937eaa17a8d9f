"""What Lambda leaves of an invocation bounds the calls that it makes."""

from collections.abc import Iterator

import pytest
from fastapi import APIRouter

from tests.unit.common.support import (
    CREDENTIAL,
    LambdaContext,
    Running,
    api_event,
    running_booking,
)
from ticketra import deadline
from ticketra.booking.v1.booking_pb2 import ListBookingsRequest
from ticketra.booking_client import BookingClient
from ticketra.http import create_app, lambda_handler

ROUNDING_S = 0.4  # gRPC sends few digits, and rounds up


@pytest.fixture
def booking() -> Iterator[Running]:
    with running_booking() as running:
        yield running


def _call_from_lambda(booking: Running, remaining_ms: int, deadline_s: float) -> int:
    client = BookingClient(
        booking.endpoint,
        caller="gateway",
        load_credential=lambda: CREDENTIAL,
        deadline_s=deadline_s,
    )
    router = APIRouter()

    @router.get("/api/list")
    def listed() -> str:
        request = ListBookingsRequest(page_size=1)
        client.call(lambda stub: stub.ListBookings, request, request_id="r")
        return ""

    event, context = api_event("GET", "/api/list"), LambdaContext(remaining_ms=remaining_ms)
    answer = lambda_handler(create_app("test", router))(event, context)  # type: ignore[arg-type]
    client.close()
    status: int = answer["statusCode"]
    return status


def test_a_call_gets_no_more_than_its_own_limit(booking: Running) -> None:
    assert _call_from_lambda(booking, remaining_ms=900_000, deadline_s=40.0) == 200
    assert 30.0 < booking.service.calls[0].time_left_s <= 40.0 + ROUNDING_S


def test_a_call_gets_no_more_than_lambda_leaves(booking: Running) -> None:
    assert _call_from_lambda(booking, remaining_ms=60_000, deadline_s=600.0) == 200
    assert (
        30.0 < booking.service.calls[0].time_left_s <= 60.0 - deadline.ANSWER_MARGIN_S + ROUNDING_S
    )


def test_a_call_that_would_be_cut_off_is_not_made(booking: Running) -> None:
    assert _call_from_lambda(booking, remaining_ms=400, deadline_s=5.0) == 503
    assert booking.service.calls == []


def test_elsewhere_there_is_no_such_limit() -> None:
    assert deadline.left_s() == float("inf")
