"""Tickets over HTTP: whose they are, in which pages, as which pictures."""

import base64
import json
from typing import Any

import pytest

from gateway.models import TICKETS_LIMIT
from gateway.ticket_keys import KEYS_TTL_S, PublishedKeys
from tests.unit.common.support import OTHER_ID, USER_ID, LambdaContext, Running, api_event
from tests.unit.gateway.fakes import GatewayFunction
from tests.unit.gateway.pictures import text_in_png, text_in_svg
from ticketra import errors
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.errors import Unavailable
from ticketra.http import lambda_handler

ABSENT_ID = "01890000-0000-7000-8000-00000000dead"
READ_TEXT = {"svg": text_in_svg, "png": text_in_png}
MEDIA_TYPE = {"svg": "image/svg+xml", "png": "image/png"}


def _confirmed(booking: Running, count: int = 3, user_id: str = USER_ID) -> pb.Booking:
    kept = booking.service.add_booking("0" * 24, user_id, count)
    kept.status = pb.BOOKING_STATUS_CONFIRMED
    return kept


def _get(function: GatewayFunction, path: str, **claims: Any) -> Any:
    return function.http.get(path, headers=function.key.bearer(**claims))


def _tickets(function: GatewayFunction, booking_id: str, query: str = "", **claims: Any) -> Any:
    return _get(function, f"/api/bookings/{booking_id}/tickets{query}", **claims)


def _qr(function: GatewayFunction, booking_id: str, name: str, **claims: Any) -> Any:
    return _get(function, f"/api/bookings/{booking_id}/tickets/{name}", **claims)


def test_a_ticket_shows_every_name_of_the_contract(
    strict: GatewayFunction, booking: Running
) -> None:
    kept = _confirmed(booking, count=1)

    answer = _tickets(strict, kept.id)

    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == [
        {
            "id": f"{kept.id[:-4]}0001",
            "booking_id": kept.id,
            "number": 1,
            "code": "code-of-1",
            "status": "valid",
        }
    ]


def test_tickets_come_in_pages(strict: GatewayFunction, booking: Running) -> None:
    kept = _confirmed(booking, count=5)

    pages = [_tickets(strict, kept.id, "?limit=2")]
    while "next" in pages[-1].links:
        pages.append(_tickets(strict, kept.id, pages[-1].links["next"]["url"]))

    assert [[t["number"] for t in page.json()] for page in pages] == [[1, 2], [3, 4], [5]]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=x", "user_id=a", "cursor=", "cursor=x", "cursor=0",
     "cursor=-1", f"cursor={TICKETS_LIMIT + 1}", f"cursor={'9' * 256}", "cursor=%C2%B2"],
)  # fmt: skip
def test_a_page_out_of_bounds_is_refused(
    strict: GatewayFunction, booking: Running, query: str
) -> None:
    answer = _tickets(strict, _confirmed(booking).id, f"?{query}")

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert booking.service.calls == []


def test_tickets_of_a_cancelled_booking_are_void(strict: GatewayFunction, booking: Running) -> None:
    kept = _confirmed(booking)
    kept.status = pb.BOOKING_STATUS_CANCELLED

    shown = {(ticket["status"], ticket["code"]) for ticket in _tickets(strict, kept.id).json()}
    assert shown == {("void", None)}, "an offline door would accept the code of a void ticket"
    for kind in READ_TEXT:
        answer = _qr(strict, kept.id, f"1/qr.{kind}")
        assert (answer.status_code, answer.json()["code"]) == (409, "ticket_void")


def test_before_a_booking_is_confirmed_there_are_none(
    strict: GatewayFunction, booking: Running
) -> None:
    kept = booking.service.add_booking("0" * 24, USER_ID, 1)

    for path in ("tickets", "tickets/1/qr.svg", "tickets/1/qr.png"):
        answer = _get(strict, f"/api/bookings/{kept.id}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (409, "tickets_not_issued")


def test_another_persons_tickets_are_not_found(strict: GatewayFunction, booking: Running) -> None:
    theirs = _confirmed(booking, user_id=OTHER_ID)

    for booking_id in (theirs.id, ABSENT_ID, "1", "{0}"):
        for path in ("tickets", "tickets/1/qr.svg", "tickets/1/qr.png"):
            answer = _get(strict, f"/api/bookings/{booking_id}/{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "booking_not_found")


def test_an_admin_may_see_them(strict: GatewayFunction, booking: Running) -> None:
    theirs = _confirmed(booking, user_id=OTHER_ID)

    assert _tickets(strict, theirs.id, role="admin").status_code == 200
    assert _qr(strict, theirs.id, "1/qr.png", role="admin").status_code == 200


def test_the_open_policy_shows_them_to_anybody(free: GatewayFunction, booking: Running) -> None:
    theirs = _confirmed(booking, user_id="kerem_user")

    assert len(free.http.get(f"/api/bookings/{theirs.id}/tickets").json()) == 3
    assert free.http.get(f"/api/bookings/{theirs.id}/tickets/1/qr.svg").status_code == 200


def test_the_strict_policy_needs_a_token(strict: GatewayFunction, booking: Running) -> None:
    kept = _confirmed(booking)

    for path in ("tickets", "tickets/1/qr.svg", "tickets/1/qr.png"):
        answer = strict.http.get(f"/api/bookings/{kept.id}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (401, "authentication_required")


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_each_ticket_has_its_own_picture(
    strict: GatewayFunction, booking: Running, kind: str
) -> None:
    kept = _confirmed(booking, count=3)

    for number in (1, 2, 3):
        answer = _qr(strict, kept.id, f"{number}/qr.{kind}")
        assert answer.headers["content-type"] == MEDIA_TYPE[kind]
        assert READ_TEXT[kind](answer.content) == f"code-of-{number}"


def test_a_picture_stays_in_the_callers_own_cache(
    strict: GatewayFunction, booking: Running
) -> None:
    answer = _qr(strict, _confirmed(booking).id, "1/qr.png")

    assert answer.headers["cache-control"] == "private, max-age=60"
    assert "Authorization" in answer.headers["vary"]


@pytest.mark.parametrize("number", ["0", "4", "-1", str(TICKETS_LIMIT + 1), str(2**63)])
def test_a_number_that_no_ticket_has_is_not_found(
    strict: GatewayFunction, booking: Running, number: str
) -> None:
    answer = _qr(strict, _confirmed(booking, count=3).id, f"{number}/qr.svg")

    assert (answer.status_code, answer.json()["code"]) == (404, "ticket_not_found")


@pytest.mark.parametrize("number", ["x", "1.5", "%00", "9" * 5000])
def test_what_is_no_number_is_refused(
    strict: GatewayFunction, booking: Running, number: str
) -> None:
    answer = _qr(strict, _confirmed(booking).id, f"{number}/qr.svg")

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "number")
    assert booking.service.calls == []


def test_an_absent_service_is_503(strict: GatewayFunction, booking: Running) -> None:
    kept = _confirmed(booking)
    booking.service.failures = [errors.Unavailable("temporarily_unavailable", "Away.")]

    answer = _tickets(strict, kept.id)

    assert (answer.status_code, answer.json()["code"]) == (503, "temporarily_unavailable")


def test_pictures_reach_api_gateway_as_base64(free: GatewayFunction, booking: Running) -> None:
    handler = lambda_handler(free.app)
    event = api_event("GET", f"/api/bookings/{_confirmed(booking).id}/tickets/2/qr.png")

    answer = handler(event, LambdaContext())  # type: ignore[arg-type]

    assert answer["isBase64Encoded"] is True
    assert text_in_png(base64.b64decode(answer["body"])) == "code-of-2"


def test_a_body_that_api_gateway_took_for_binary_is_read(free: GatewayFunction) -> None:
    """With the media type */* it encodes whatever comes in."""
    handler = lambda_handler(free.app)
    order = json.dumps({"event_id": "0" * 24, "ticket_count": 2, "user_id": "kerem_user"})
    event = api_event("POST", "/api/bookings", base64.b64encode(order.encode()).decode())

    answer = handler(event | {"isBase64Encoded": True}, LambdaContext())  # type: ignore[arg-type]

    assert answer["statusCode"] == 201
    assert (json.loads(answer["body"])["ticket_count"], answer["isBase64Encoded"]) == (2, False)


def test_anybody_gets_the_public_keys(strict: GatewayFunction) -> None:
    answer = strict.http.get("/api/bookings/.well-known/jwks.json")

    assert answer.json() == {"keys": [strict.ticket_key.jwk]}
    assert answer.headers["cache-control"] == "public, max-age=300"
    assert answer.headers["content-type"] == "application/json"


def test_the_public_keys_are_read_again_when_their_time_is_over() -> None:
    now_s, published, reads = 0.0, "one", 0

    def load() -> str:
        nonlocal reads
        reads += 1
        if published == "away":
            raise Unavailable("temporarily_unavailable", "Away.")
        return published

    keys = PublishedKeys(load, monotonic=lambda: now_s)
    assert keys() == "one"
    published, now_s = "two", KEYS_TTL_S - 1
    assert (keys(), reads) == ("one", 1)
    now_s = KEYS_TTL_S
    assert (keys(), reads) == ("two", 2)
    published, now_s = "away", 2 * KEYS_TTL_S
    assert (keys(), keys(), reads) == ("two", "two", 3)
    with pytest.raises(Unavailable):
        PublishedKeys(load)()
