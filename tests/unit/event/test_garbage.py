"""Whatever is sent, the event function answers with a problem and never fails."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.common.garbage import bodies
from tests.unit.common.support import LambdaContext, api_event
from tests.unit.event.fakes import CONCERT, EventFunction
from ticketra.http import lambda_handler

FIELDS = [
    *CONCERT,
    "description",
    "category",
    "price",
    "sales_start",
    "sales_end",
    "max_per_booking",
    "max_per_user",
]
QUERY = ["q", "location", "category", "organizer", "from", "to", "status", "sort", "cursor"]
FUNCTION = EventFunction("open")
HANDLER = lambda_handler(FUNCTION.app)


@settings(max_examples=400, deadline=None)
@given(bodies(CONCERT, FIELDS))
def test_create_never_fails(body: str) -> None:
    answer = HANDLER(api_event("POST", "/api/events", body), LambdaContext())  # type: ignore[arg-type]

    assert answer["statusCode"] == 201 or 400 <= answer["statusCode"] < 500
    assert "code" in json.loads(answer["body"]) or answer["statusCode"] == 201


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec=None), max_size=30), st.text(max_size=20), st.text(max_size=20))
def test_reads_never_fail(event_id: str, page: str, limit: str) -> None:
    one = HANDLER(api_event("GET", f"/api/events/{event_id}"), LambdaContext())  # type: ignore[arg-type]
    some = HANDLER(
        api_event("GET", "/api/events", query={"page": page, "limit": limit}),
        LambdaContext(),  # type: ignore[arg-type]
    )

    assert one["statusCode"] < 500
    assert some["statusCode"] < 500


@settings(max_examples=300, deadline=None)
@given(bodies({"title": "Gala"}, [*FIELDS, "id", "$set"]), st.text('\t !"*,-/1W', max_size=12))
def test_changes_never_fail(body: str, tag: str) -> None:
    known = FUNCTION.create().json()["id"]
    headers = FUNCTION.key.bearer() | {"If-Match": tag}

    answer = HANDLER(
        api_event("PATCH", f"/api/events/{known}", body, headers=headers),
        LambdaContext(),  # type: ignore[arg-type]
    )

    assert answer["statusCode"] == 200 or 400 <= answer["statusCode"] < 500


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*QUERY, "x"]), st.text(max_size=30), max_size=4))
def test_queries_never_fail(query: dict[str, str]) -> None:
    answer = HANDLER(api_event("GET", "/api/events", query=query), LambdaContext())  # type: ignore[arg-type]

    assert answer["statusCode"] in {200, 422}
