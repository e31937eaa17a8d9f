"""The gateway through its real entry point, in front of a real booking task."""

import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import boto3
import pytest

from tests.integration.booking_task import CREDENTIALS, TICKET_KEY, BookingTask, Client, orders
from tests.integration.functions import Function, deployed
from tests.integration.servers import Server
from tests.unit.common.support import OTHER_ID, USER_ID, SigningKey
from ticketra.door import Door

KEY = SigningKey()
TICKETS_JWKS_PARAMETER = "/test/tickets/jwks"
RECOVERY_LIMIT_S = 15.0


@pytest.fixture
def gateway(task: BookingTask) -> Iterator[Function]:
    environment = {
        "ACCESS_POLICY": "strict",
        "BOOKING_ENDPOINT": task.address,
        "BOOKING_CALLER_SECRET": "caller/gateway",
        "TICKETS_JWKS_PARAMETER": TICKETS_JWKS_PARAMETER,
    }
    secret_values = {"caller/gateway": CREDENTIALS["gateway"]}
    with deployed("gateway", environment, secret_values=secret_values, key=KEY) as function:
        boto3.client("ssm").put_parameter(
            Name=TICKETS_JWKS_PARAMETER, Value=TICKET_KEY.jwks, Type="String"
        )
        yield function


@pytest.fixture
def event_id(task: BookingTask) -> str:
    """An event with 3 tickets on sale."""
    minted = uuid4().hex[:24]
    with task.channel() as channel:
        Client(channel).put_sale(minted, 3)
    return minted


def _book(gateway: Function, event_id: str, count: int, **headers: str) -> tuple[int, Any]:
    body = {"event_id": event_id, "ticket_count": count}
    status, answer, _ = gateway.call("POST", "/api/bookings", body, headers=KEY.bearer() | headers)
    return status, answer


def _left(task: BookingTask, event_id: str) -> int:
    with task.channel() as channel:
        return Client(channel).remaining(event_id)


def test_book_read_list_cancel(gateway: Function, task: BookingTask, event_id: str) -> None:
    status, booking = _book(gateway, event_id, 2)
    assert (status, booking["status"], booking["user_id"]) == (201, "PENDING", USER_ID)
    assert booking["amount"] == {"amount_minor": 5000, "currency": "EUR"}
    assert _left(task, event_id) == 1

    path = f"/api/bookings/{booking['id']}"
    assert gateway.call("GET", path, headers=KEY.bearer())[1] == booking
    _, mine, _ = gateway.call("GET", "/api/bookings", headers=KEY.bearer(), query={"limit": "1"})
    assert mine == [booking]

    for _ in range(2):
        status, cancelled, _ = gateway.call("POST", f"{path}/cancel", headers=KEY.bearer())
        assert (status, cancelled["status"]) == (200, "CANCELLED")
        assert cancelled["reason"] == "cancelled by the buyer"
    assert _left(task, event_id) == 3


def test_refusals_have_the_contracts_codes(gateway: Function, event_id: str) -> None:
    status, problem = _book(gateway, event_id, 4)
    assert (status, problem["code"], problem["available"]) == (409, "not_enough_tickets", 3)

    assert _book(gateway, event_id, 3)[0] == 201
    status, problem = _book(gateway, event_id, 1)
    assert (status, problem["code"]) == (409, "sold_out")

    status, problem = _book(gateway, "0" * 24, 1)
    assert (status, problem["code"]) == (404, "event_not_found")
    status, problem = _book(gateway, "BURAYA_EVENT_ID_YAPISTIR", 1)
    assert (status, problem["code"]) == (404, "event_not_found")


def test_a_key_has_one_effect(gateway: Function, task: BookingTask, event_id: str) -> None:
    key = {"Idempotency-Key": str(uuid4())}
    status, first = _book(gateway, event_id, 2, **key)

    assert (status, _book(gateway, event_id, 2, **key)) == (201, (201, first))
    status, problem = _book(gateway, event_id, 1, **key)
    assert (status, problem["code"]) == (422, "idempotency_mismatch")
    assert _left(task, event_id) == 1


def test_the_request_id_travels_into_the_message(
    gateway: Function, database: Server, event_id: str
) -> None:
    _, booking = _book(gateway, event_id, 1, **{"X-Request-Id": "trace-me"})

    with orders(database) as connection:
        rows = connection.execute(
            "SELECT body FROM outbox WHERE subject = %s", [booking["id"]]
        ).fetchall()
    assert [json.loads(body)["request_id"] for (body,) in rows] == ["trace-me"]


def test_another_persons_booking_is_not_found(gateway: Function, event_id: str) -> None:
    _, booking = _book(gateway, event_id, 1)
    other = KEY.bearer(sub=OTHER_ID)
    path = f"/api/bookings/{booking['id']}"

    for method, at in (("GET", path), ("POST", f"{path}/cancel")):
        status, problem, _ = gateway.call(method, at, headers=other)
        assert (status, problem["code"]) == (404, "booking_not_found")
    assert gateway.call("GET", "/api/bookings", headers=other)[1] == []
    admin = KEY.bearer(sub=OTHER_ID, role="admin")
    assert gateway.call("GET", path, headers=admin)[1] == booking


def test_pages_follow_each_other(gateway: Function, event_id: str) -> None:
    someone = KEY.bearer(sub=str(uuid4()))
    body = {"event_id": event_id, "ticket_count": 1}
    made = [gateway.call("POST", "/api/bookings", body, headers=someone)[1]["id"] for _ in range(3)]

    _, first, headers = gateway.call("GET", "/api/bookings", headers=someone, query={"limit": "2"})
    cursor = headers["link"].split("cursor=")[1].split("&")[0]
    _, rest, headers = gateway.call(
        "GET", "/api/bookings", headers=someone, query={"limit": "2", "cursor": cursor}
    )

    assert [booking["id"] for booking in first + rest] == made[::-1]
    assert "link" not in headers
    for wrong in ("x", "1", "0" * 36, "~" * 256):
        status, problem, _ = gateway.call(
            "GET", "/api/bookings", headers=someone, query={"cursor": wrong}
        )
        assert (status, problem["code"]) == (422, "validation_failed")


def test_tickets_from_the_booking_to_the_door(
    gateway: Function, task: BookingTask, event_id: str
) -> None:
    _, booking = _book(gateway, event_id, 3)
    path = f"/api/bookings/{booking['id']}/tickets"
    status, problem, _ = gateway.call("GET", path, headers=KEY.bearer())
    assert (status, problem["code"]) == (409, "tickets_not_issued")
    with task.channel() as channel:
        Client(channel).confirm(booking["id"])

    _, first, headers = gateway.call("GET", path, headers=KEY.bearer(), query={"limit": "2"})
    cursor = headers["link"].split("cursor=")[1].split("&")[0]
    query = {"limit": "2", "cursor": cursor}
    _, rest, headers = gateway.call("GET", path, headers=KEY.bearer(), query=query)

    assert ([t["number"] for t in first + rest], "link" in headers) == ([1, 2, 3], False)
    entrance = Door(TICKET_KEY.jwks)
    assert all(entrance.check(ticket["code"]).lets_in for ticket in first + rest)
    status, problem, _ = gateway.call("GET", path, headers=KEY.bearer(sub=OTHER_ID))
    assert (status, problem["code"]) == (404, "booking_not_found")


def test_anybody_gets_the_keys_that_verify_tickets(gateway: Function) -> None:
    status, keys, headers = gateway.call("GET", "/api/bookings/.well-known/jwks.json")

    assert (status, keys) == (200, {"keys": [TICKET_KEY.jwk]})
    assert headers["cache-control"] == "public, max-age=300"


def test_an_outage_is_told_and_passes(gateway: Function, task: BookingTask, event_id: str) -> None:
    _, booking = _book(gateway, event_id, 1)
    task.kill()

    status, problem = _book(gateway, event_id, 1)
    assert (status, problem["code"]) == (503, "booking_unavailable")

    task.start()
    deadline = time.monotonic() + RECOVERY_LIMIT_S
    while (status := _book(gateway, event_id, 1)[0]) != 201:
        assert status == 503
        assert time.monotonic() < deadline
        time.sleep(0.1)
    path = f"/api/bookings/{booking['id']}"
    assert gateway.call("GET", path, headers=KEY.bearer())[1] == booking
    assert _left(task, event_id) == 1
