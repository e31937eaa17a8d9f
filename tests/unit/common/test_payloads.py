"""The sample payloads of the documentation are answered as it says."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.common.support import LambdaContext, running_booking
from tests.unit.event.fakes import EventFunction
from tests.unit.gateway.fakes import GatewayFunction
from tests.unit.identity.fakes import Identity
from ticketra.http import lambda_handler

PAYLOADS = Path(__file__).parents[3] / "docs" / "payloads"


def _answer(app: Any, name: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    event = json.loads((PAYLOADS / f"{name}.json").read_text())
    event["headers"] |= headers or {}
    answer = lambda_handler(app)(event, LambdaContext())  # type: ignore[arg-type]
    return answer["statusCode"], json.loads(answer["body"])


def test_identity() -> None:
    app = Identity().app

    assert _answer(app, "register")[0] == 201
    status, body = _answer(app, "login")
    assert (status, set(body)) == (200, {"token", "token_type", "expires_in", "refresh_token"})
    assert _answer(app, "register")[1]["code"] == "email_taken"


def test_event() -> None:
    function = EventFunction()

    assert _answer(function.app, "create-event")[1]["code"] == "authentication_required"
    status, created = _answer(function.app, "create-event", function.key.bearer())
    assert status == 201
    assert _answer(function.app, "list-events") == (200, [created])


@pytest.mark.parametrize("policy", ["strict", "open"])
def test_gateway(policy: Any) -> None:
    with running_booking() as booking:
        function = GatewayFunction(booking.endpoint, policy)

        assert _answer(function.app, "create-booking", function.key.bearer())[0] == 201
        status, body = _answer(function.app, "list-tickets", function.key.bearer())
        assert (status, body["code"]) == (404, "booking_not_found")
        keys = {"keys": [function.ticket_key.jwk]}
        assert _answer(function.app, "ticket-keys") == (200, keys)
        function.client.close()


def test_every_payload_is_listed_and_holds_what_api_gateway_sends() -> None:
    readme = (PAYLOADS / "README.md").read_text()
    for path in PAYLOADS.glob("*.json"):
        assert path.name in readme
        assert {"resource", "requestContext", "httpMethod", "path"} <= set(
            json.loads(path.read_text())
        )
