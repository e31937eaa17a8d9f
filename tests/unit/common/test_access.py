"""Who needs a token is what the API's document says, under each access policy."""

import json
import re
from typing import Any

import pytest

from docs.openapi import catalogue
from gateway.documents import DIRECTORY, for_policy
from tests.unit.common.support import LambdaContext, api_event, running_booking
from tests.unit.event.fakes import EventFunction
from tests.unit.gateway.fakes import GatewayFunction
from tests.unit.identity.fakes import Identity
from ticketra.auth import AccessPolicy
from ticketra.http import lambda_handler

NEEDS_A_TOKEN = {"authentication_required", "invalid_token"}


@pytest.mark.parametrize("policy", ["strict", "open"])
def test_anonymous_and_forged_callers_get_what_the_document_says(policy: AccessPolicy) -> None:
    document = json.loads(for_policy((DIRECTORY / "openapi.json").read_text(), policy))
    with running_booking() as booking:
        gateway = GatewayFunction(booking.endpoint, policy)
        events = EventFunction(policy)
        event_id = events.create().json()["id"]
        ids = {"event_id": event_id, "booking_id": catalogue.BOOKING_ID, "number": "1"}
        handlers = {
            "Identity": lambda_handler(Identity(policy).app),
            "Events": lambda_handler(events.app),
            "Bookings": lambda_handler(gateway.app),
            "Tickets": lambda_handler(gateway.app),
            "Documentation": lambda_handler(gateway.app),
        }
        for template, operations in document["paths"].items():
            for method, operation in operations.items():
                path = re.sub(r"\{(\w+)\}", lambda found: ids.get(found[1], "page.js"), template)
                handler = handlers[operation["tags"][0]]
                asks = bool(operation["security"])
                shown = f"{policy}: {method} {path}"

                nobody = _code(handler, method, path, _body(operation, policy))
                assert (nobody in NEEDS_A_TOKEN) == (asks and {} not in operation["security"]), (
                    f"{shown} answers an anonymous caller with {nobody}"
                )
                forged = _code(handler, method, path, _body(operation, policy), "not.a.token")
                assert (forged == "invalid_token") == asks, f"{shown} to a forged token: {forged}"
        gateway.client.close()


def _body(operation: dict[str, Any], policy: AccessPolicy) -> Any:
    if "requestBody" not in operation:
        return None
    (media,) = operation["requestBody"]["content"].values()
    more = {"user_id": "kerem_user"} if operation["operationId"] == "create_booking" else {}
    return media["example"] | (more if policy == "open" else {})


def _code(handler: Any, method: str, path: str, body: Any, token: str | None = None) -> str:
    """Return the code of the problem, "" if the answer is none."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    answer = handler(api_event(method.upper(), path, body, headers=headers), LambdaContext())
    assert answer["statusCode"] < 500
    return str(json.loads(answer["body"])["code"]) if answer["statusCode"] >= 400 else ""
