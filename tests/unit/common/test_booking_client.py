from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import grpc
import pytest

from tests.unit.common.support import CREDENTIAL, Running, running_booking
from ticketra import errors, rpc
from ticketra.booking.v1.booking_pb2 import (
    Booking,
    CreateBookingRequest,
    CreateBookingResponse,
    GetBookingRequest,
)
from ticketra.booking_client import BookingClient

WAIT_LIMIT_S = 10.0


@pytest.fixture
def booking() -> Iterator[Running]:
    with running_booking() as running:
        yield running


@pytest.fixture
def client(booking: Running) -> Iterator[BookingClient]:
    client = _client(booking.endpoint)
    yield client
    client.close()


def _client(endpoint: str, credential: str = CREDENTIAL, deadline_s: float = 5.0) -> BookingClient:
    return BookingClient(
        endpoint, caller="gateway", load_credential=lambda: credential, deadline_s=deadline_s
    )


def _create(client: BookingClient, key: str = "k") -> CreateBookingResponse:
    request = CreateBookingRequest(event_id="e", user_id="u", ticket_count=1, idempotency_key=key)
    fresh = CreateBookingRequest()
    fresh.CopyFrom(request)
    fresh.key_is_fresh = True
    return client.call(lambda stub: stub.CreateBooking, fresh, again=request, request_id="r-1")


def _get(client: BookingClient) -> Booking:
    return client.call(lambda stub: stub.GetBooking, GetBookingRequest(id="none"), request_id="r")


def test_names_its_caller_and_the_request(client: BookingClient, booking: Running) -> None:
    _create(client)

    metadata = booking.service.calls[0].metadata
    assert metadata[rpc.CALLER_KEY] == "gateway"
    assert metadata[rpc.CREDENTIAL_KEY] == CREDENTIAL
    assert metadata[rpc.REQUEST_ID_KEY] == "r-1"


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_asks_once_more_after_a_broken_connection(
    client: BookingClient, booking: Running, status: grpc.StatusCode
) -> None:
    booking.service.failures = [status]

    _create(client)

    first, second = (call.request for call in booking.service.calls)
    assert (first.key_is_fresh, second.key_is_fresh) == (True, False)
    assert first.idempotency_key == second.idempotency_key


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_gives_up_after_the_second_try(
    client: BookingClient, booking: Running, status: grpc.StatusCode
) -> None:
    booking.service.failures = [status] * 3

    with pytest.raises(errors.Unavailable) as caught:
        _create(client)

    assert caught.value.code == "booking_unavailable"
    assert caught.value.retry_after_s == 1
    assert len(booking.service.calls) == 2


def test_does_not_repeat_what_was_answered(client: BookingClient, booking: Running) -> None:
    booking.service.failures = [errors.Unavailable("temporarily_unavailable", "No database.")]

    with pytest.raises(errors.Unavailable) as caught:
        _create(client)

    assert caught.value.code == "temporarily_unavailable"
    assert caught.value.retry_after_s == 1
    assert len(booking.service.calls) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        errors.Conflict("sold_out", "Sold out."),
        errors.Conflict("not_enough_tickets", "Only 2 left.", available=2),
        errors.Busy("event_busy", "Event is busy, try again.", retry_after_s=3),
        errors.NotFound("event_not_found", "No such event."),
        errors.Invalid("idempotency_mismatch", "Another body."),
        errors.TooManyRequests("slow_down", "Wait.", retry_after_s=2),
        errors.Invalid("validation_failed", "See.", errors=[errors.FieldError("cursor", "bad")]),
    ],
)
def test_hands_on_the_services_refusals(
    client: BookingClient, booking: Running, refusal: errors.Refusal
) -> None:
    booking.service.failures = [refusal]

    with pytest.raises(type(refusal)) as caught:
        _create(client)

    got = caught.value
    assert (got.code, got.detail) == (refusal.code, refusal.detail)
    assert (got.available, got.retry_after_s) == (refusal.available, refusal.retry_after_s)
    assert got.errors == refusal.errors


def test_a_refused_credential_is_not_the_buyers_fault(booking: Running) -> None:
    client = _client(booking.endpoint, credential="wrong")

    with pytest.raises(grpc.RpcError):
        _get(client)
    client.close()


def test_a_fault_of_the_service_stays_a_fault(client: BookingClient, booking: Running) -> None:
    booking.service.failures = [grpc.StatusCode.INTERNAL]

    with pytest.raises(grpc.RpcError) as caught:
        _get(client)

    assert caught.value.code() is grpc.StatusCode.INTERNAL


def test_says_so_when_nobody_listens(booking: Running) -> None:
    booking.stop()
    client = _client(booking.endpoint)

    with pytest.raises(errors.Unavailable):
        _get(client)
    client.close()


def test_the_deadline_bounds_the_wait(booking: Running) -> None:
    booking.service.delay_s = 1.0
    impatient = _client(booking.endpoint, deadline_s=0.3)

    with pytest.raises(errors.Unavailable):
        _get(impatient)

    assert len(booking.service.calls) == 1
    assert booking.service.calls[0].time_left_s < 1.0
    impatient.close()


def test_one_connection_serves_many_calls(client: BookingClient, booking: Running) -> None:
    booking.service.failures = [errors.Conflict("sold_out", "Sold out.")]
    with pytest.raises(errors.Conflict):
        _create(client)
    for _ in range(3):
        _create(client)

    assert len({call.peer for call in booking.service.calls}) == 1


@pytest.mark.parametrize("status", [grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE])
def test_a_connection_without_an_answer_is_replaced(
    client: BookingClient, booking: Running, status: grpc.StatusCode
) -> None:
    _create(client)
    booking.service.failures = [status] * 2
    with pytest.raises(errors.Unavailable):
        _create(client)
    booking.service.failures = []

    _create(client)

    peers = [call.peer for call in booking.service.calls]
    assert peers[0] == peers[1]
    assert peers[-1] not in peers[:-1]


def test_a_broken_connection_is_kept_until_the_other_calls_on_it_end(
    client: BookingClient, booking: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, may_answer = Event(), Event()
    arrive = booking.service._arrive

    def held(method: str, request: CreateBookingRequest, context: grpc.ServicerContext) -> None:
        if request.idempotency_key == "slow":
            arrived.set()
            may_answer.wait(WAIT_LIMIT_S)
        arrive(method, request, context)

    monkeypatch.setattr(booking.service, "_arrive", held)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(_create, client, "slow")
        assert arrived.wait(WAIT_LIMIT_S)
        booking.service.failures = [grpc.StatusCode.DEADLINE_EXCEEDED]
        with pytest.raises(errors.Unavailable):
            _create(client, "broken")
        may_answer.set()

        assert slow.result().booking.id
    keys = [call.request.idempotency_key for call in booking.service.calls]
    assert keys.count("slow") == 1, "it was cut off and sent again"


def test_the_retry_has_only_what_is_left_of_the_deadline(booking: Running) -> None:
    booking.service.failures = [grpc.StatusCode.UNAVAILABLE]
    clock = iter([100.0, 103.5])
    client = BookingClient(
        booking.endpoint,
        caller="gateway",
        load_credential=lambda: CREDENTIAL,
        deadline_s=5.0,
        monotonic=lambda: next(clock),
        sleep=lambda seconds: None,
    )

    _create(client)

    assert booking.service.calls[1].time_left_s < 2.5
    client.close()
