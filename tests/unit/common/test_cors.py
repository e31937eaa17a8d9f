"""CORS: which pages may call, as the functions answer it; errors too."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter

from tests.unit.common.support import LambdaContext, api_event
from ticketra.cors import CorsPolicy
from ticketra.errors import Conflict
from ticketra.http import BODY_LIMIT_BYTES, create_app, lambda_handler

SHOP = "https://shop.example"
Answer = tuple[int, dict[str, str]]
Handle = Callable[..., Answer]


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    monkeypatch.setenv("CORS_ORIGINS", f"{SHOP} http://localhost:*")
    return _handle()


def _handle() -> Handle:
    router = APIRouter()

    @router.get("/api/refuse")
    def refuse() -> None:
        raise Conflict("sold_out", "Sold out.")

    @router.get("/api/fail")
    def fail() -> None:
        raise RuntimeError

    handler = lambda_handler(create_app("test", router))

    def handle(method: str, path: str, body: Any = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = handler(api_event(method, path, body, headers=sent), LambdaContext())  # type: ignore[arg-type]
        return answer["statusCode"], answer["headers"]

    return handle


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/refuse", None, 409),
        ("GET", "/api/fail", None, 500),
        ("GET", "/api/nothing", None, 404),
        ("DELETE", "/api/refuse", None, 405),
        ("POST", "/api/refuse", "x" * (BODY_LIMIT_BYTES + 1), 413),
    ],
)
def test_a_known_page_may_read_every_error(
    handle: Handle, method: str, path: str, body: str | None, status: int
) -> None:
    found, headers = handle(method, path, body, Origin=SHOP)

    assert (found, headers["access-control-allow-origin"]) == (status, SHOP)
    assert "Retry-After" in headers["access-control-expose-headers"]
    assert headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in headers


def test_a_preflight_is_answered_without_the_app(handle: Handle) -> None:
    status, headers = handle(
        "OPTIONS", "/api/fail", Origin=SHOP, Access_Control_Request_Method="PATCH"
    )

    assert status == 204
    assert headers["access-control-allow-origin"] == SHOP
    assert "PATCH" in headers["access-control-allow-methods"]
    assert "Idempotency-Key" in headers["access-control-allow-headers"]
    assert headers["access-control-max-age"] == "600"


def test_an_unknown_page_is_told_nothing(handle: Handle) -> None:
    origin = "https://evil.example"
    status, headers = handle("GET", "/api/refuse", Origin=origin)
    preflight, more = handle(
        "OPTIONS", "/api/refuse", Origin=origin, Access_Control_Request_Method="GET"
    )

    assert (status, preflight) == (409, 405)
    for given in (headers, more):
        assert not {name for name in given if name.startswith("access-control")}
        assert given["vary"] == "Origin"


def test_without_the_setting_there_is_no_cors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CORS_ORIGINS", raising=False)

    status, headers = _handle()(
        "OPTIONS", "/api/refuse", Origin=SHOP, Access_Control_Request_Method="GET"
    )

    assert status == 405
    assert not {name for name in headers if name.startswith("access-control")} | (
        headers.keys() & {"vary"}
    )


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("http://localhost:5173", True),
        ("http://localhost:80", True),
        ("http://localhost", False),
        ("http://localhost:", False),
        ("http://localhost:5173.evil.example", False),
        ("https://localhost:5173", False),
        ("http://localhost.evil.example:5173", False),
        (SHOP, True),
        (f"{SHOP}:8443", False),
        (f"{SHOP}.evil.example", False),
        ("null", False),
        ("*", False),
    ],
)
def test_an_origin_is_compared_whole(origin: str, *, is_allowed: bool) -> None:
    policy = CorsPolicy([SHOP, "http://localhost:*"])

    assert (policy.preflight_headers(origin) is not None) == is_allowed
    assert (("Access-Control-Allow-Origin", origin) in policy.headers(origin)) == is_allowed


def test_a_star_is_any_page() -> None:
    assert ("Access-Control-Allow-Origin", "https://a") in CorsPolicy(["*"]).headers("https://a")
