"""Whatever is sent, the gateway answers with a problem and never fails."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.common.garbage import bodies
from tests.unit.common.support import LambdaContext, api_event
from tests.unit.gateway.fakes import GatewayFunction
from ticketra.http import lambda_handler

ORDER = {"event_id": "0" * 24, "ticket_count": 2, "user_id": "kerem_user"}
BOOKING_ID = "01890000-0000-7000-8000-00000000dead"
SHARED = [HealthCheck.function_scoped_fixture]


@settings(max_examples=300, deadline=None, suppress_health_check=SHARED)
@given(body=bodies(ORDER, list(ORDER)))
def test_create_never_fails(free: GatewayFunction, body: str) -> None:
    handler = lambda_handler(free.app)

    answer = handler(api_event("POST", "/api/bookings", body), LambdaContext())  # type: ignore[arg-type]

    assert answer["statusCode"] == 201 or 400 <= answer["statusCode"] < 500
    assert "code" in json.loads(answer["body"]) or answer["statusCode"] == 201


@settings(max_examples=200, deadline=None, suppress_health_check=SHARED)
@given(value=st.text(st.characters(codec=None), max_size=30), key=st.text(max_size=20))
def test_the_rest_never_fails(free: GatewayFunction, value: str, key: str) -> None:
    handler = lambda_handler(free.app)
    for event in (
        api_event("GET", f"/api/bookings/{value}"),
        api_event("POST", f"/api/bookings/{value}/cancel"),
        api_event("GET", "/api/bookings", query={"user_id": value, "cursor": key}),
        api_event("GET", f"/api/bookings/{value}/tickets", query={"cursor": key}),
        api_event("GET", f"/api/bookings/{BOOKING_ID}/tickets", query={"cursor": value}),
        api_event("GET", f"/api/bookings/{BOOKING_ID}/tickets/{value}/qr.png"),
        api_event("POST", "/api/bookings", ORDER, headers={"Idempotency-Key": key}),
    ):
        answer = handler(event, LambdaContext())  # type: ignore[arg-type]

        assert answer["statusCode"] < 500
