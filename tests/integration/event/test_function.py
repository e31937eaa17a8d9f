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
