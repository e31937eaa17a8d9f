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
HANDLER = lambda_handler(EventFunction("open").app)


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
