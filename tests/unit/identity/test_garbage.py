"""Whatever is sent, identity answers with a problem and never fails."""

import json

from hypothesis import given, settings

from tests.unit.common.garbage import bodies
from tests.unit.common.support import LambdaContext, api_event
from tests.unit.identity.fakes import Identity
from ticketra.http import lambda_handler

VALID = {"email": "anna@example.com", "password": "correct horse"}
TOKEN = {"refresh_token": "x" * 43}
CHANGE = {"current_password": "correct horse", "new_password": "battery staple"}
IDENTITY = Identity()
HANDLER = lambda_handler(IDENTITY.app)
USER = IDENTITY.http.post("/api/auth/register", json=VALID).json()


BEARER = IDENTITY.key.bearer(sub=USER["id"])


@settings(max_examples=300, deadline=None)
@given(bodies(VALID, ["email", "password"]))
def test_register_and_login_never_fail(body: str) -> None:
    for path in ("/api/auth/register", "/api/auth/login"):
        _never_fails(path, body)


@settings(max_examples=150, deadline=None)
@given(bodies(TOKEN, ["refresh_token"]))
def test_refresh_and_logout_never_fail(body: str) -> None:
    for path in ("/api/auth/refresh", "/api/auth/logout"):
        _never_fails(path, body)


@settings(max_examples=150, deadline=None)
@given(bodies(CHANGE, ["current_password", "new_password"]))
def test_a_password_change_never_fails(body: str) -> None:
    _never_fails("/api/auth/password", body)


def _never_fails(path: str, body: str) -> None:
    event = api_event("POST", path, body, headers=BEARER)
    answer = HANDLER(event, LambdaContext())  # type: ignore[arg-type]

    assert answer["statusCode"] < 500
    if answer["statusCode"] >= 400:
        assert json.loads(answer["body"])["code"] != "internal_error"
