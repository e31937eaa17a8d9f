"""A list's query, its cursor, and the headers of its pages."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event.listing import (
    CURSOR_LIMIT_CHARS,
    ListQuery,
    Position,
    Total,
    from_cursor,
    to_cursor,
)
from event.models import EARLIEST, LATEST
from event.query import plan
from tests.unit.event.fakes import EventFunction

POSITION = Position("newest", datetime(2030, 1, 1, 12, 0, 0, 123_000, tzinfo=UTC), "0" * 23 + "a")
_MOMENTS = st.integers(0, (LATEST - EARLIEST) // timedelta(milliseconds=1) - 1)


@pytest.fixture
def function() -> EventFunction:
    function = EventFunction()
    for number in range(5):
        function.create(title=f"Event {number}")
    return function


@given(
    st.sampled_from(["newest", "date", "-date"]), _MOMENTS, st.integers(0, 2**96 - 1)
)  # fmt: skip
def test_a_cursor_holds_its_position(sort: Any, milliseconds: int, number: int) -> None:
    position = Position(sort, EARLIEST + timedelta(milliseconds=milliseconds), f"{number:024x}")

    cursor = to_cursor(position)

    assert from_cursor(cursor) == position
    assert len(cursor) <= CURSOR_LIMIT_CHARS


def _cursor(*parts: Any) -> str:
    return (
        base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode())
        .decode()
        .rstrip("=")
    )


@pytest.mark.parametrize(
    "cursor",
    [
        "x", "====", "é", to_cursor(POSITION) + "=", to_cursor(POSITION)[:-1], "bnVsbA",
        _cursor("newest", 1), _cursor("newest", 1, "g" * 24), _cursor("newest", -1, "0" * 24),
        _cursor("newest", 10**15, "0" * 24), _cursor("newest", 10**30, "0" * 24),
        _cursor("oldest", 1, "0" * 24), _cursor("newest", 1.5, "0" * 24),
        _cursor("newest", "1", "0" * 24), _cursor("newest", 1, ["0"] * 24),
        _cursor("newest", 1, {"$gt": ""}), _cursor(["newest"], 1, "0" * 24), _cursor({}),
    ],
)  # fmt: skip
def test_what_is_no_cursor_is_refused(function: EventFunction, cursor: str) -> None:
    answer = function.http.get("/api/events", params={"cursor": cursor})

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "cursor")


@given(st.text(max_size=100))
def test_a_cursor_is_one_of_ours_or_refused(cursor: str) -> None:
    with pytest.raises(ValueError, match="not one of ours"):
        from_cursor(cursor)


@pytest.mark.parametrize(
    "query",
    [
        {"page": "1", "cursor": ""}, {"cursor": to_cursor(POSITION), "sort": "date"},
        {"from": "2030-01-02T00:00:00Z", "to": "2030-01-01T00:00:00Z"}, {"sort": "price"},
        {"from": "2030-01-01"}, {"to": "tomorrow"}, {"q": ""}, {"q": "?!"}, {"q": "x" * 201},
        {"q": "a b c d e f g h i j k"}, {"location": ""}, {"organizer": "x" * 129},
        {"status": "ANY"}, {"category": "x" * 201}, {"colour": "red"}, {"q[$ne]": "1"},
        {"organiser": "me"},
    ],
    ids=str,
)  # fmt: skip
def test_a_query_that_says_nothing_clear_is_refused(
    function: EventFunction, query: dict[str, str]
) -> None:
    answer = function.http.get("/api/events", params=query)

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert function.store.queries == []


def test_a_cursor_walks_through_all_events_also_while_some_are_added(
    function: EventFunction,
) -> None:
    url, titles = "/api/events?cursor=&limit=2", []
    while True:
        answer = function.http.get(url)
        titles += [event["title"] for event in answer.json()]
        assert "x-total-count" not in answer.headers
        if "link" not in answer.headers:
            break
        target, _, name = answer.headers["link"].partition(">; ")
        assert name == 'rel="next"'
        url = "/api/events" + target.removeprefix("<")
        function.create(title="Later")

    assert titles == ["Event 4", "Event 3", "Event 2", "Event 1", "Event 0"]


def test_links_keep_the_filters(function: EventFunction) -> None:
    query = "q=a%22b+c&from=2030-01-01T00%3A00%3A00Z&sort=newest&limit=2&page=2"

    link = function.http.get(f"/api/events?{query}").headers["link"]

    previous, following = link.split(", ")
    kept = "q=a%22b+c&from=2030-01-01T00%3A00%3A00Z&sort=newest"
    assert previous == f'<?{kept}&page=1&limit=2>; rel="prev"'
    assert following == f'<?{kept}&page=3&limit=2>; rel="next"'


def test_the_last_page_with_a_number_goes_on_with_a_cursor(function: EventFunction) -> None:
    everything = function.store.page
    function.store.page = (  # type: ignore[method-assign]
        lambda query: everything(query.model_copy(update={"page": 1}))
    )

    link = function.http.get("/api/events?page=1000&limit=2").headers["link"]

    cursor = to_cursor(Position("newest", function.store.events[3].created_at, f"{4:024x}"))
    assert link == f'<?page=999&limit=2>; rel="prev", <?cursor={cursor}&limit=2>; rel="next"'


def test_a_count_that_went_too_far_says_so(function: EventFunction) -> None:
    exact = function.http.get("/api/events").headers
    function.store.total = Total(10_000, exact=False)
    bounded = function.http.get("/api/events").headers

    assert (exact["x-total-count"], exact["x-total-count-relation"]) == ("5", "eq")
    assert (bounded["x-total-count"], bounded["x-total-count-relation"]) == ("10000", "gte")


@pytest.mark.parametrize(
    "text", ['"rock"', "-rock", "$where", "rock OR 1=1", "{$gt: ''}", "ro\\ck", "a'b;--", "\u0000a"]
)
def test_what_looks_like_an_operator_is_text(function: EventFunction, text: str) -> None:
    answer = function.http.get(
        "/api/events", params={"q": text, "location": text, "organizer": text, "category": text}
    )

    assert answer.status_code == 200
    how = plan(function.store.queries[0]).filter["$and"]
    assert {"organizer_id": text} in how
    assert all(word.isalnum() for word in function.store.queries[0].words)


def test_values_are_folded_as_they_are_kept() -> None:
    query = ListQuery(
        q="ÇIĞLIK caf\u00e9  Cafe", location=" HARBİYE  A\u00e7\u0131khava", category="Müzik"
    )

    assert query.words == ["ciglik", "cafe"]
    assert query.location_key == "harbiye acikhava"
    assert query.category_key == "muzik"
