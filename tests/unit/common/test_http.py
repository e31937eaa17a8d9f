"""The HTTP edge: problem+json for every refusal, request ids, bounds, the Lambda entry point."""

import json
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field

from tests.unit.common.logs import Logs
from tests.unit.common.support import LambdaContext, api_event
from ticketra import errors
from ticketra.http import (
    BODY_LIMIT_BYTES,
    FIELD_ERRORS_LIMIT,
    HEADERS_LIMIT_BYTES,
    create_app,
    lambda_handler,
)

router = APIRouter()


class Body(BaseModel):
    count: int = Field(strict=True)
    names: list[str] = []


@router.post("/api/things")
def make(body: Body) -> Body:
    return body


@router.get("/api/things")
def show() -> list[str]:
    return []


@router.get("/api/refuse/{name}")
def refuse(name: str) -> None:
    raise _REFUSALS[name]


@router.get("/api/fail")
def fail() -> None:
    raise RuntimeError("the password is hunter2")


_REFUSALS = {
    "few": errors.Conflict("not_enough_tickets", "Only 2 are left.", available=2),
    "busy": errors.Busy("event_busy", "Event is busy, try again.", retry_after_s=1),
    "who": errors.Unauthenticated("invalid_token", "Log in again."),
    "away": errors.Unavailable("temporarily_unavailable", "Try again.", retry_after_s=2),
}
APP = create_app("test", router)
CLIENT = TestClient(APP)
HANDLER = lambda_handler(APP)


def _invoke(event: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]]:
    answer = HANDLER(event, LambdaContext())  # type: ignore[arg-type]
    assert answer["isBase64Encoded"] is False
    return answer["statusCode"], json.loads(answer["body"]), answer["headers"]


def test_a_refusal_becomes_a_problem() -> None:
    answer = CLIENT.get("/api/refuse/few", headers={"X-Request-Id": "mine-1"})

    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Not enough tickets",
        "status": 409,
        "detail": "Only 2 are left.",
        "code": "not_enough_tickets",
        "request_id": "mine-1",
        "available": 2,
    }


def test_waiting_is_told_in_a_header() -> None:
    assert CLIENT.get("/api/refuse/busy").headers["retry-after"] == "1"
    away = CLIENT.get("/api/refuse/away")
    assert (away.status_code, away.headers["retry-after"]) == (503, "2")


def test_a_missing_credential_is_challenged() -> None:
    assert CLIENT.get("/api/refuse/who").headers["www-authenticate"].startswith("Bearer")


def test_a_fault_of_ours_shows_nothing_but_the_request_id(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = CLIENT.get("/api/fail")

    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "hunter2" not in answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/nothing", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/api/things/", 404, "not_found"),
        ("DELETE", "/api/things", 405, "method_not_allowed"),
    ],
)
def test_unmatched_routes_are_problems(method: str, path: str, status: int, code: str) -> None:
    answer = CLIENT.request(method, path)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    if status == 405:
        assert answer.headers["allow"] == "GET, POST"


def test_wrong_fields_are_named() -> None:
    answer = CLIENT.post("/api/things", json={"count": "1", "names": ["a", 2]})

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert {error["field"] for error in answer.json()["errors"]} == {"count", "names.1"}


def test_the_list_of_wrong_fields_is_bounded() -> None:
    answer = CLIENT.post("/api/things", json={"count": 1, "names": [0] * 500})

    assert len(answer.json()["errors"]) == FIELD_ERRORS_LIMIT


@pytest.mark.parametrize(
    "body", [b"{", b"", b"\xff\xfe", b"[" * 60_000, b'{"count": ' + b"9" * 5000 + b"}", b"NaN"]
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    answer = CLIENT.post("/api/things", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_over_the_limit_is_refused_whatever_length_it_claims() -> None:
    padding = "x" * BODY_LIMIT_BYTES
    as_declared = CLIENT.post("/api/things", json={"count": 1, "names": [padding]})
    status, body, _ = _invoke(api_event("POST", "/api/things", {"count": 1, "names": [padding]}))

    assert (as_declared.status_code, as_declared.json()["code"]) == (413, "body_too_large")
    assert (status, body["code"]) == (413, "body_too_large")


def test_a_body_at_the_limit_is_taken() -> None:
    empty = len(json.dumps({"count": 1, "names": [""]}))
    event = api_event(
        "POST", "/api/things", {"count": 1, "names": ["x" * (BODY_LIMIT_BYTES - empty)]}
    )
    assert len(event["body"]) == BODY_LIMIT_BYTES

    assert _invoke(event)[0] == 200


def test_headers_over_the_limit_are_refused() -> None:
    sent = {f"X-Header-{number}": "x" * 1024 for number in range(HEADERS_LIMIT_BYTES // 1024)}
    status, body, headers = _invoke(api_event("GET", "/api/things", headers=sent))

    assert (status, body["code"]) == (431, "headers_too_large")
    assert headers["content-type"] == "application/problem+json"
    assert _invoke(api_event("GET", "/api/things", headers=dict(list(sent.items())[:-2])))[0] == 200


def test_answers_an_api_gateway_event() -> None:
    status, body, headers = _invoke(api_event("POST", "/api/things", {"count": 3}))

    assert (status, body) == (200, {"count": 3, "names": []})
    assert headers["x-request-id"] == "from-api-gateway"


def test_problems_leave_lambda_as_text() -> None:
    status, body, headers = _invoke(api_event("GET", "/api/refuse/few"))

    assert (status, body["code"]) == (409, "not_enough_tickets")
    assert headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "event",
    [
        api_event("POST", "/api/things", '{"count": "\ud800"}'),
        api_event("GET", "/api/\ud800"),
        api_event("GET", "/api/things", query={"a": "\ud800"}),
        api_event("GET", "/api/things", headers={"X-A": "\ud800"}),
        api_event("GET", "/api/things", headers={"Host": "a:b"}),
    ],
    ids=["body", "path", "query", "header", "host"],
)
def test_text_that_is_not_unicode_is_refused_before_the_app(event: dict[str, Any]) -> None:
    status, body, headers = _invoke(event)

    assert (status, body["code"]) == (400, "malformed_request")
    assert headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("sent", ["a b", "x" * 65, "\u00e9", "a\tb"])
def test_a_request_id_that_could_harm_a_log_is_not_taken(sent: str) -> None:
    _, body, headers = _invoke(api_event("GET", "/api/nothing", headers={"X-Request-Id": sent}))

    assert body["request_id"] == headers["x-request-id"] == "from-api-gateway"


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Logs:
    return Logs(monkeypatch)


def test_every_log_line_has_the_request_id(logs: Logs) -> None:
    _invoke(api_event("GET", "/api/refuse/away", headers={"X-Request-Id": "find-me"}))

    lines = logs.lines()
    assert [line["level"] for line in lines] == ["WARNING", "INFO"]
    assert {line["request_id"] for line in lines} == {"find-me"}
    assert lines[-1]["status"] == 503


def test_an_unreadable_request_is_found_in_the_log(logs: Logs) -> None:
    _, body, headers = _invoke(api_event("GET", "/api/\ud800"))

    (line,) = logs.lines()
    assert line["request_id"] == body["request_id"] == headers["x-request-id"]
    assert line["request_id"] == "from-api-gateway"


def test_a_fault_of_ours_is_logged_with_its_request_id(logs: Logs) -> None:
    _invoke(api_event("GET", "/api/fail", headers={"X-Request-Id": "find-me"}))

    (error,) = logs.lines("ERROR")
    assert (error["request_id"], error["exception_name"]) == ("find-me", "RuntimeError")
