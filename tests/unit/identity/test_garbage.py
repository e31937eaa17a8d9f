"""Whatever is sent, identity answers with a problem and never fails."""

import json

from hypothesis import given, settings

from tests.unit.common.garbage import bodies
from tests.unit.common.support import LambdaContext, api_event
from tests.unit.identity.fakes import Identity
from ticketra.http import lambda_handler

VALID = {"email": "anna@example.com", "password": "correct horse"}
HANDLER = lambda_handler(Identity().app)


@settings(max_examples=300, deadline=None)
@given(bodies(VALID, ["email", "password"]))
def test_register_and_login_never_fail(body: str) -> None:
    for path in ("/api/auth/register", "/api/auth/login"):
        answer = HANDLER(api_event("POST", path, body), LambdaContext())  # type: ignore[arg-type]

        assert answer["statusCode"] < 500
        if answer["statusCode"] >= 400:
            assert json.loads(answer["body"])["code"] != "internal_error"
