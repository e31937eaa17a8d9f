import json
from datetime import timedelta
from typing import Any

import pytest

from event.models import TICKETS_LIMIT
from tests.unit.common.support import USER_ID, LambdaContext, SigningKey, api_event
from tests.unit.event.fakes import CONCERT, NOW, EventFunction
from ticketra.http import lambda_handler

FULL = CONCERT | {
    "description": "Two hours.\nNo break.",
    "category": "music",
    "price": {"amount_minor": 125_000, "currency": "TRY"},
    "sales_start": "2030-02-01T09:00:00+03:00",
    "sales_end": "2030-07-20T18:00:00Z",
    "max_per_booking": 6,
    "max_per_user": 10,
}


@pytest.fixture
def function() -> EventFunction:
    return EventFunction()


def test_an_event_shows_every_name_of_the_contract(function: EventFunction) -> None:
    answer = function.http.post("/api/events", json=FULL, headers=function.key.bearer())

    assert answer.status_code == 201
    assert answer.headers["location"] == f"/api/events/{answer.json()['id']}"
    assert answer.json() == FULL | {
        "id": f"{1:024x}",
        "available_tickets": 100,
        "sales_start": "2030-02-01T06:00:00Z",
        "status": "SCHEDULED",
        "organizer_id": USER_ID,
        "created_at": "2030-01-01T00:00:00.001000Z",
        "updated_at": "2030-01-01T00:00:00.001000Z",
    }


def test_what_is_left_out_is_null(function: EventFunction) -> None:
    body = function.create().json()

    absent = ["description", "category", "price", "sales_start", "max_per_user"]
    assert [body[name] for name in absent] == [None] * len(absent)


def test_strict_sells_until_the_event_if_nothing_else_is_said(function: EventFunction) -> None:
    body = function.create().json()

    assert body["sales_end"] == body["date"]
    assert function.sales.sold[body["id"]].event.sales_end == NOW + timedelta(days=200, hours=21)
    assert function.store.events[0].sales_end is None


def test_open_sells_without_an_end_if_nothing_else_is_said() -> None:
    function = EventFunction("open")

    body = function.create(date="2026-07-20T21:00:00Z").json()

    assert body["sales_end"] is None
    assert function.sales.sold[body["id"]].event.sales_end is None


def test_strict_needs_a_token(function: EventFunction) -> None:
    nobody = function.http.post("/api/events", json=CONCERT)
    forged = function.http.post("/api/events", json=CONCERT, headers=SigningKey().bearer())

    assert (nobody.status_code, nobody.json()["code"]) == (401, "authentication_required")
    assert (forged.status_code, forged.json()["code"]) == (401, "invalid_token")
    assert function.sales.sold == {}


def test_who_may_not_create_learns_nothing_about_bodies(function: EventFunction) -> None:
    assert function.http.post("/api/events", json={}).status_code == 401


@pytest.mark.parametrize("field", ["date", "sales_end"])
def test_strict_refuses_what_has_passed(function: EventFunction, field: str) -> None:
    changes: dict[str, Any] = {field: "2030-01-01T00:00:00Z"}

    answer = function.create(**changes)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


def test_open_takes_a_past_date_without_a_token() -> None:
    function = EventFunction("open")

    answer = function.http.post("/api/events", json=CONCERT | {"date": "2026-07-20T21:00:00Z"})

    assert (answer.status_code, answer.json()["organizer_id"]) == (201, "anonymous")


def test_open_still_knows_who_sends_a_token_and_refuses_a_forged_one() -> None:
    function = EventFunction("open")

    assert function.create().json()["organizer_id"] == USER_ID
    forged = function.http.post("/api/events", json=CONCERT, headers=SigningKey().bearer())
    assert forged.status_code == 401


WRONG = [
    ("title", ""), ("title", "   "), ("title", "x" * 201), ("title", 7), ("title", None),
    ("title", "a\u0000b"), ("title", {"$gt": ""}), ("title", ["a"]),
    ("location", ""), ("location", "a\nb"),
    ("date", "2030-07-20T21:00:00"), ("date", "2030-07-20"), ("date", 1_900_000_000),
    ("date", "1900000000"), ("date", "2030-02-30T21:00:00Z"), ("date", "9999-12-31T23:59:59-14:00"),
    ("date", "0001-01-01T00:00:00+14:00"), ("date", "2030-07-20T21:00:00Z\n"), ("date", None),
    ("date", "\uff12030-07-20T21:00:00Z"),
    ("total_tickets", 0), ("total_tickets", -1), ("total_tickets", TICKETS_LIMIT + 1),
    ("total_tickets", "100"), ("total_tickets", 1.0), ("total_tickets", True),
    ("total_tickets", 10**30), ("total_tickets", None),
    ("description", "x" * 5001), ("description", "a\u0007"), ("category", "x" * 51),
    ("price", 5), ("price", {"amount_minor": 1}), ("price", {"currency": "EUR"}),
    ("price", {"amount_minor": -1, "currency": "EUR"}),
    ("price", {"amount_minor": 1.5, "currency": "EUR"}),
    ("price", {"amount_minor": 10**13, "currency": "EUR"}),
    ("price", {"amount_minor": 1, "currency": "eur"}),
    ("price", {"amount_minor": 1, "currency": "ZZZ"}),
    ("price", {"amount_minor": 1, "currency": "EUR", "tax": 1}),
    ("sales_start", "soon"), ("sales_end", "2030-07-20T21:00:01Z"),
    ("sales_start", "2030-07-20T21:00:00Z"),
    ("max_per_booking", 0), ("max_per_booking", "6"), ("max_per_user", TICKETS_LIMIT + 1),
    ("organizer_id", "me"), ("$set", {"a": 1}), ("available_tickets", 5),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_field_is_refused(function: EventFunction, field: str, value: Any) -> None:
    answer = function.create(**{field: value})

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    named = " ".join(f"{e['field']} {e['message']}" for e in answer.json()["errors"])
    assert field in named
    assert function.sales.sold == {}


@pytest.mark.parametrize(
    "together",
    [
        {"sales_start": "2030-03-01T00:00:00Z", "sales_end": "2030-03-01T00:00:00Z"},
        {"sales_start": "2030-03-02T00:00:00Z", "sales_end": "2030-03-01T00:00:00Z"},
        {"max_per_booking": 5, "max_per_user": 4},
    ],
)
def test_fields_that_do_not_agree_are_refused(
    function: EventFunction, together: dict[str, Any]
) -> None:
    assert function.create(**together).status_code == 422


def test_times_are_kept_as_milliseconds_in_utc(function: EventFunction) -> None:
    body = function.create(date="2030-07-20T23:00:00.123456789+02:00").json()

    assert body["date"] == "2030-07-20T21:00:00.123000Z"


def test_nothing_is_visible_when_the_sale_cannot_be_opened(function: EventFunction) -> None:
    function.sales.away = True

    answer = function.create()

    assert (answer.status_code, answer.json()["code"]) == (503, "booking_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert function.store.events == []


def test_an_event_that_cannot_be_kept_is_refused(function: EventFunction) -> None:
    function.store.away = True

    answer = function.create()

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


def test_get_shows_what_is_left_now(function: EventFunction) -> None:
    event_id = function.create().json()["id"]
    function.sales.sold[event_id].taken = 58

    answer = function.http.get(f"/api/events/{event_id}")

    assert (answer.status_code, answer.json()["available_tickets"]) == (200, 42)


def test_events_still_show_while_booking_is_away(function: EventFunction) -> None:
    event_id = function.create().json()["id"]
    function.sales.away = True

    one = function.http.get(f"/api/events/{event_id}")
    all_of_them = function.http.get("/api/events")

    assert (one.status_code, one.json()["available_tickets"]) == (200, None)
    assert (all_of_them.status_code, all_of_them.json()[0]["available_tickets"]) == (200, None)


@pytest.mark.parametrize("event_id", ["nothing", "0" * 24, "%00", "a" * 3000, "😀", "[$ne]"])
def test_an_unknown_event_is_not_found(function: EventFunction, event_id: str) -> None:
    answer = function.http.get(f"/api/events/{event_id}")

    assert (answer.status_code, answer.json()["code"]) == (404, "event_not_found")


def test_a_list_comes_in_pages_newest_first(function: EventFunction) -> None:
    for number in range(5):
        function.create(title=f"Event {number}")

    first = function.http.get("/api/events", params={"page": 1, "limit": 2})
    middle = function.http.get("/api/events", params={"page": 2, "limit": 2})
    last = function.http.get("/api/events", params={"page": 3, "limit": 2})

    assert [event["title"] for event in first.json()] == ["Event 4", "Event 3"]
    assert [event["title"] for event in last.json()] == ["Event 0"]
    assert first.headers["x-total-count"] == "5"
    assert first.headers["link"] == '<?page=2&limit=2>; rel="next"'
    assert middle.headers["link"] == (
        '<?page=1&limit=2>; rel="prev", <?page=3&limit=2>; rel="next"'
    )
    assert last.headers["link"] == '<?page=2&limit=2>; rel="prev"'


def test_one_page_asks_for_availability_once(function: EventFunction) -> None:
    for _ in range(3):
        function.create()

    found = function.http.get("/api/events").json()

    assert [event["available_tickets"] for event in found] == [100, 100, 100]
    assert function.sales.asked == [[event["id"] for event in found]]


def test_an_empty_list_is_an_empty_array(function: EventFunction) -> None:
    answer = function.http.get("/api/events")

    assert (answer.json(), answer.headers["x-total-count"]) == ([], "0")
    assert "link" not in answer.headers


@pytest.mark.parametrize(
    "query", ["page=0", "page=-1", "page=x", "page=1001", "limit=0", "limit=101", "limit=1e2",
              f"page={'9' * 5000}", "page=1%00"],
)  # fmt: skip
def test_a_page_out_of_bounds_is_refused(function: EventFunction, query: str) -> None:
    answer = function.http.get(f"/api/events?{query}")

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


def test_answers_api_gateway() -> None:
    handler = lambda_handler(EventFunction("open").app)

    created = handler(api_event("POST", "/api/events", CONCERT), LambdaContext())  # type: ignore[arg-type]
    listed = handler(api_event("GET", "/api/events", query={"limit": "5"}), LambdaContext())  # type: ignore[arg-type]

    assert created["statusCode"] == 201
    assert json.loads(listed["body"])[0]["id"] == json.loads(created["body"])["id"]
    assert listed["headers"]["x-total-count"] == "1"
