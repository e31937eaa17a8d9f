import json
from typing import Any

import grpc
import pytest

from tests.unit.common.support import (
    OTHER_ID,
    USER_ID,
    LambdaContext,
    Running,
    SigningKey,
    api_event,
)
from tests.unit.gateway.fakes import GatewayFunction
from ticketra import errors
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.http import lambda_handler

ORDER = {"event_id": "0" * 24, "ticket_count": 2}
ABSENT_ID = "01890000-0000-7000-8000-00000000dead"


def _book(function: GatewayFunction, *, key: str | None = None, **changes: Any) -> Any:
    headers = function.key.bearer() | ({} if key is None else {"Idempotency-Key": key})
    return function.http.post("/api/bookings", json=ORDER | changes, headers=headers)


def test_a_booking_shows_every_name_of_the_contract(strict: GatewayFunction) -> None:
    answer = _book(strict)

    assert answer.status_code == 201
    assert answer.headers["location"] == f"/api/bookings/{answer.json()['id']}"
    assert "idempotent-replayed" not in answer.headers
    assert answer.json() == {
        "id": "01890000-0000-7000-8000-000000000001",
        "event_id": ORDER["event_id"],
        "user_id": USER_ID,
        "ticket_count": 2,
        "amount": {"amount_minor": 3000, "currency": "EUR"},
        "status": "PENDING",
        "payment_status": "pending",
        "reason": None,
        "hold_expires_at": "2030-03-17T17:56:41Z",
        "created_at": "2030-03-17T17:46:41Z",
        "updated_at": "2030-03-17T17:46:41Z",
    }


def test_a_booking_without_a_price_has_no_amount(strict: GatewayFunction, booking: Running) -> None:
    booking_id = _book(strict).json()["id"]
    booking.service.bookings[booking_id].ClearField("amount")

    answer = strict.http.get(f"/api/bookings/{booking_id}", headers=strict.key.bearer())

    assert answer.json()["amount"] is None


@pytest.mark.parametrize(
    ("status", "payment", "shown"),
    [
        (pb.BOOKING_STATUS_CONFIRMED, pb.PAYMENT_STATUS_PAID, ("CONFIRMED", "paid")),
        (pb.BOOKING_STATUS_CANCELLED, pb.PAYMENT_STATUS_DECLINED, ("CANCELLED", "declined")),
        (pb.BOOKING_STATUS_CANCELLED, pb.PAYMENT_STATUS_REFUNDING, ("CANCELLED", "refunding")),
        (pb.BOOKING_STATUS_EXPIRED, pb.PAYMENT_STATUS_REFUNDED, ("EXPIRED", "refunded")),
    ],
)
def test_states_have_the_contracts_names(
    strict: GatewayFunction, booking: Running, status: Any, payment: Any, shown: tuple[str, str]
) -> None:
    booking_id = _book(strict).json()["id"]
    kept = booking.service.bookings[booking_id]
    kept.status, kept.payment_status = status, payment

    body = strict.http.get(f"/api/bookings/{booking_id}", headers=strict.key.bearer()).json()

    assert (body["status"], body["payment_status"]) == shown


def test_a_minted_key_is_fresh_until_it_is_sent_again(
    strict: GatewayFunction, booking: Running
) -> None:
    booking.service.failures = [grpc.StatusCode.UNAVAILABLE]

    answer = _book(strict)

    sent = [call.request for call in booking.service.calls]
    assert answer.status_code == 201
    assert [request.idempotency_key for request in sent] == ["minted-1", "minted-1"]
    assert [request.key_is_fresh for request in sent] == [True, False]


def test_the_clients_key_is_never_fresh_and_replays(
    strict: GatewayFunction, booking: Running
) -> None:
    first = _book(strict, key="mine")
    again = _book(strict, key="mine")

    assert again.status_code == first.status_code == 201
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert [call.request.key_is_fresh for call in booking.service.calls] == [False, False]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "a\tb", "caf\u00e9".encode()])
def test_a_key_that_is_no_visible_ascii_is_refused(strict: GatewayFunction, key: Any) -> None:
    answer = _book(strict, key=key)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "idempotency-key")


def test_strict_needs_a_token_everywhere(strict: GatewayFunction, booking: Running) -> None:
    for method, path, body in [
        ("POST", "/api/bookings", ORDER | {"user_id": USER_ID}),
        ("GET", "/api/bookings", None),
        ("GET", f"/api/bookings?user_id={USER_ID}", None),
        ("GET", f"/api/bookings/{ABSENT_ID}", None),
        ("POST", f"/api/bookings/{ABSENT_ID}/cancel", None),
    ]:
        nobody = strict.http.request(method, path, json=body)
        forged = strict.http.request(method, path, json=body, headers=SigningKey().bearer())
        assert (nobody.status_code, nobody.json()["code"]) == (401, "authentication_required")
        assert (forged.status_code, forged.json()["code"]) == (401, "invalid_token")
    assert booking.service.calls == []


def test_strict_refuses_another_users_id(strict: GatewayFunction, booking: Running) -> None:
    own = _book(strict, user_id=USER_ID)
    other = _book(strict, user_id=OTHER_ID)

    assert own.status_code == 201
    assert (other.status_code, other.json()["errors"][0]["field"]) == (422, "user_id")
    assert len(booking.service.bookings) == 1


def test_open_books_for_a_label_without_a_token(free: GatewayFunction) -> None:
    answer = free.http.post("/api/bookings", json=ORDER | {"user_id": "kerem_user"})
    nobody = free.http.post("/api/bookings", json=ORDER)

    assert (answer.status_code, answer.json()["user_id"]) == (201, "kerem_user")
    assert (nobody.status_code, nobody.json()["errors"][0]["field"]) == (422, "user_id")


def test_open_lets_the_anonymous_read_and_cancel(free: GatewayFunction) -> None:
    booking_id = free.http.post("/api/bookings", json=ORDER | {"user_id": "kerem_user"}).json()[
        "id"
    ]

    read = free.http.get(f"/api/bookings/{booking_id}")
    listed = free.http.get("/api/bookings", params={"user_id": "kerem_user"})
    cancelled = free.http.post(f"/api/bookings/{booking_id}/cancel")

    assert read.json()["user_id"] == "kerem_user"
    assert [found["id"] for found in listed.json()] == [booking_id]
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "CANCELLED")
    assert cancelled.json()["reason"] == "cancelled by the buyer"


def test_another_persons_booking_is_not_found(strict: GatewayFunction, booking: Running) -> None:
    theirs = booking.service.add_booking("0" * 24, OTHER_ID, 1)

    read = strict.http.get(f"/api/bookings/{theirs.id}", headers=strict.key.bearer())
    cancel = strict.http.post(f"/api/bookings/{theirs.id}/cancel", headers=strict.key.bearer())
    absent = strict.http.get(f"/api/bookings/{ABSENT_ID}", headers=strict.key.bearer())

    for answer in (read, cancel, absent):
        assert (answer.status_code, answer.json()["code"]) == (404, "booking_not_found")
    assert theirs.status == pb.BOOKING_STATUS_PENDING


def test_an_admin_may_read_it_but_not_cancel_it(strict: GatewayFunction, booking: Running) -> None:
    theirs = booking.service.add_booking("0" * 24, OTHER_ID, 1)
    admin = strict.key.bearer(role="admin")

    assert strict.http.get(f"/api/bookings/{theirs.id}", headers=admin).status_code == 200
    assert strict.http.post(f"/api/bookings/{theirs.id}/cancel", headers=admin).status_code == 404


@pytest.mark.parametrize("booking_id", ["1", "x" * 36, "%00", "{01890000}", "a" * 3000, "😀"])
def test_what_is_no_booking_id_is_not_found(
    strict: GatewayFunction, booking: Running, booking_id: str
) -> None:
    answer = strict.http.get(f"/api/bookings/{booking_id}", headers=strict.key.bearer())

    assert (answer.status_code, answer.json()["code"]) == (404, "booking_not_found")
    assert booking.service.calls == []


def test_my_bookings_come_in_pages(strict: GatewayFunction) -> None:
    ids = [_book(strict).json()["id"] for _ in range(3)]

    first = strict.http.get("/api/bookings?limit=2", headers=strict.key.bearer())
    rest = strict.http.get(
        f"/api/bookings{first.links['next']['url']}", headers=strict.key.bearer()
    )

    assert [found["id"] for found in first.json()] == ids[:2]
    assert [found["id"] for found in rest.json()] == ids[2:]
    assert "link" not in rest.headers


def test_a_next_page_keeps_the_user_that_was_asked_for(free: GatewayFunction) -> None:
    for _ in range(2):
        free.http.post("/api/bookings", json=ORDER | {"user_id": "a&b"})

    first = free.http.get("/api/bookings", params={"limit": 1, "user_id": "a&b"})
    second = free.http.get(f"/api/bookings{first.links['next']['url']}")

    assert [found["user_id"] for found in second.json()] == ["a&b"]
    assert first.json() != second.json()


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=x", "limti=1", "cursor=", "cursor=%00", f"cursor={'x' * 257}"],
)
def test_a_page_out_of_bounds_is_refused(strict: GatewayFunction, query: str) -> None:
    answer = strict.http.get(f"/api/bookings?{query}", headers=strict.key.bearer())

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (errors.Conflict("sold_out", "Sold out."), 409),
        (errors.Busy("event_busy", "Event is busy, try again", retry_after_s=1), 409),
        (errors.NotFound("event_not_found", "No such event."), 404),
        (errors.Conflict("sale_not_open", "Not yet."), 409),
        (errors.Conflict("booking_limit", "Too many."), 409),
        (errors.Invalid("idempotency_mismatch", "Another body."), 422),
        (errors.Unavailable("temporarily_unavailable", "Away."), 503),
    ],
)
def test_the_services_refusals_keep_their_codes(
    strict: GatewayFunction, booking: Running, refusal: errors.Refusal, status: int
) -> None:
    booking.service.failures = [refusal]

    answer = _book(strict)

    assert (answer.status_code, answer.json()["code"]) == (status, refusal.code)
    waits = isinstance(refusal, errors.Busy | errors.Unavailable)
    assert answer.headers.get("retry-after") == ("1" if waits else None)


def test_too_few_tickets_says_how_many_are_left(strict: GatewayFunction, booking: Running) -> None:
    booking.service.failures = [errors.Conflict("not_enough_tickets", "Only 1.", available=1)]

    assert _book(strict).json()["available"] == 1


def test_an_absent_service_is_503(strict: GatewayFunction, booking: Running) -> None:
    booking.stop()

    answer = _book(strict)

    assert (answer.status_code, answer.json()["code"]) == (503, "booking_unavailable")
    assert answer.headers["retry-after"] == "1"


def test_a_fault_of_the_service_is_ours_and_hidden(
    strict: GatewayFunction, booking: Running
) -> None:
    booking.service.failures = [grpc.StatusCode.INTERNAL]

    answer = _book(strict)

    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "as told by the test" not in answer.text


def test_the_request_id_reaches_the_service(strict: GatewayFunction, booking: Running) -> None:
    headers = strict.key.bearer() | {"X-Request-Id": "trace-me"}

    strict.http.post("/api/bookings", json=ORDER, headers=headers)

    assert booking.service.calls[0].metadata["x-request-id"] == "trace-me"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ticket_count", 0), ("ticket_count", -1), ("ticket_count", "2"), ("ticket_count", 2.0),
        ("ticket_count", True), ("ticket_count", 1_001), ("ticket_count", None),
        ("event_id", ""), ("event_id", "a b"), ("event_id", 5), ("event_id", {"$ne": ""}),
        ("event_id", "x" * 65), ("event_id", "a\u0000"), ("event_id", None),
        ("user_id", ""), ("user_id", "a\nb"), ("user_id", "x" * 65), ("user_id", ["a"]),
        ("status", "CONFIRMED"), ("price", 0),
    ],
)  # fmt: skip
def test_a_wrong_field_is_refused(
    free: GatewayFunction, booking: Running, field: str, value: Any
) -> None:
    answer = free.http.post("/api/bookings", json=ORDER | {"user_id": "u"} | {field: value})

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert booking.service.calls == []


def test_answers_api_gateway(free: GatewayFunction) -> None:
    handler = lambda_handler(free.app)
    event = api_event("POST", "/api/bookings", ORDER | {"user_id": "kerem_user"})

    answer = handler(event, LambdaContext())  # type: ignore[arg-type]

    assert answer["statusCode"] == 201
    assert json.loads(answer["body"])["status"] == "PENDING"
