"""The event function through its real entry point, on a real MongoDB."""

from collections.abc import Iterator

import pytest

from tests.integration.event.conftest import DATABASE, EVENT, Mongo
from tests.integration.functions import Function, deployed
from tests.integration.servers import Server
from tests.unit.common.support import CREDENTIAL, USER_ID, Running, SigningKey, running_booking

KEY = SigningKey()
CONCERT = {
    "title": "Concert",
    "location": "Harbiye",
    "date": "2150-07-20T21:00:00.5Z",
    "total_tickets": 100,
    "price": {"amount_minor": 1500, "currency": "EUR"},
}


@pytest.fixture
def booking() -> Iterator[Running]:
    with running_booking() as running:
        yield running


@pytest.fixture
def event(mongo: Mongo, redis: Server, booking: Running) -> Iterator[Function]:
    environment = {
        "STAGE": "test",
        "REDIS_URL": redis.url,
        "REDIS_SECRET": "redis",
        "ACCESS_POLICY": "strict",
        "MONGODB_URL": mongo.url,
        "MONGODB_DATABASE": DATABASE,
        "MONGODB_SECRET": "mongodb/event",
        "BOOKING_ENDPOINT": booking.endpoint,
        "BOOKING_CALLER_SECRET": "caller/event",
    }
    secret_values = {
        "mongodb/event": EVENT._asdict(),
        "redis": {"username": redis.username, "password": redis.password},
        "caller/event": CREDENTIAL,
    }
    with deployed("event", environment, secret_values=secret_values, key=KEY) as function:
        yield function


def test_an_event_is_created_shown_and_listed(event: Function, booking: Running) -> None:
    status, created, headers = event.call("POST", "/api/events", CONCERT, headers=KEY.bearer())

    assert status == 201
    assert (created["organizer_id"], created["available_tickets"]) == (USER_ID, 100)
    assert booking.service.sales[created["id"]].terms.capacity == 100

    booking.service.sales[created["id"]].remaining = 7
    status, shown, _ = event.call("GET", headers["location"])
    assert (status, shown) == (200, created | {"available_tickets": 7})

    status, listed, headers = event.call("GET", "/api/events", query={"page": "1", "limit": "5"})
    assert (status, listed, headers["x-total-count"]) == (200, [shown], "1")


def test_events_still_show_while_booking_is_away(event: Function, booking: Running) -> None:
    _, created, _ = event.call("POST", "/api/events", CONCERT, headers=KEY.bearer())
    booking.stop()

    status, shown, _ = event.call("GET", f"/api/events/{created['id']}")
    refused, problem, _ = event.call("POST", "/api/events", CONCERT, headers=KEY.bearer())

    assert (status, shown["available_tickets"]) == (200, None)
    assert (refused, problem["code"]) == (503, "booking_unavailable")
    assert len(event.call("GET", "/api/events")[1]) == 1


def test_an_outage_is_told_and_passes(event: Function, mongo: Mongo) -> None:
    _, created, _ = event.call("POST", "/api/events", CONCERT, headers=KEY.bearer())
    mongo.stop()

    for method, path in (("GET", f"/api/events/{created['id']}"), ("POST", "/api/events")):
        status, problem, headers = event.call(method, path, CONCERT, headers=KEY.bearer())
        assert (status, problem["code"]) == (503, "temporarily_unavailable")
        assert headers["retry-after"]

    mongo.start()
    assert event.call("GET", f"/api/events/{created['id']}")[0] == 200


def test_what_was_written_is_read_whatever_was_cached(event: Function) -> None:
    _, created, _ = event.call("POST", "/api/events", CONCERT, headers=KEY.bearer())
    path = f"/api/events/{created['id']}"
    for number in range(1, 4):
        event.call("GET", path)
        event.call("GET", "/api/events", query={"q": "concert"})
        headers = KEY.bearer() | {"If-Match": f'"{number}"'}

        status, patched, sent = event.call("PATCH", path, {"title": f"{number}"}, headers=headers)

        assert (status, sent["etag"]) == (200, f'"{number + 1}-100"')
        assert event.call("GET", path)[1] == patched
        assert event.call("GET", "/api/events")[1] == [patched]
        assert event.call("GET", "/api/events", query={"q": "concert"})[1] == []


def test_terms_reach_the_sale_and_a_cancellation_closes_it(
    event: Function, booking: Running
) -> None:
    _, created, _ = event.call("POST", "/api/events", CONCERT, headers=KEY.bearer())
    path = f"/api/events/{created['id']}"
    sale = booking.service.sales[created["id"]]
    match = KEY.bearer() | {"If-Match": '"1"'}

    _, patched, _ = event.call("PATCH", path, {"total_tickets": 150}, headers=match)
    assert (patched["available_tickets"], sale.terms.capacity, sale.version) == (150, 150, 2)

    assert event.call("DELETE", path, headers=KEY.bearer())[0] == 204
    assert (sale.closed, sale.version) == (True, 3)
    shown = event.call("GET", path)[1]
    assert (shown["status"], shown["available_tickets"]) == ("CANCELLED", 0)
    assert event.call("GET", "/api/events")[1] == []
    assert len(event.call("GET", "/api/events", query={"status": "CANCELLED"})[1]) == 1


def test_a_tag_that_is_known_saves_the_body(event: Function, booking: Running) -> None:
    _, created, headers = event.call("POST", "/api/events", CONCERT, headers=KEY.bearer())
    known = {"If-None-Match": f'"x", W/{headers["etag"]}'}
    path = f"/api/events/{created['id']}"

    status, body, again = event.text("GET", path, headers=known)
    assert (status, body, again["etag"]) == (304, "", headers["etag"])

    booking.service.sales[created["id"]].remaining = 99
    assert event.text("GET", path, headers=known)[0] == 200


def test_a_key_makes_one_event(event: Function) -> None:
    headers = KEY.bearer() | {"Idempotency-Key": "the-key"}

    first = event.call("POST", "/api/events", CONCERT, headers=headers)
    again = event.call("POST", "/api/events", CONCERT, headers=headers)
    other = event.call("POST", "/api/events", CONCERT | {"title": "x"}, headers=headers)

    assert first[:2] == again[:2]
    assert again[2]["idempotent-replayed"] == "true"
    assert (other[0], other[1]["code"]) == (422, "idempotency_mismatch")
    assert len(event.call("GET", "/api/events")[1]) == 1


def test_a_calendar_file_is_text(event: Function) -> None:
    _, created, _ = event.call("POST", "/api/events", CONCERT, headers=KEY.bearer())

    status, body, headers = event.text("GET", f"/api/events/{created['id']}/calendar.ics")

    assert (status, headers["content-type"]) == (200, "text/calendar; charset=utf-8")
    assert body.startswith("BEGIN:VCALENDAR\r\n")
