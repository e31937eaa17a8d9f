"""The identity function through its real entry point, on a real PostgreSQL."""

from collections.abc import Iterator

import pytest

from tests.integration.functions import Function, deployed
from tests.integration.identity.conftest import IDENTITY
from tests.integration.servers import Server
from tests.unit.common.support import SigningKey

ANNA = {"email": "anna@example.com", "password": "correct horse"}
KEY = SigningKey()


@pytest.fixture
def identity(database: Server) -> Iterator[Function]:
    environment = {
        "ACCESS_POLICY": "strict",
        "POSTGRES_URL": f"{database.url}/auth",
        "POSTGRES_SECRET": "postgres/identity",
        "TOKEN_KEYS_SECRET": "token-keys",
        "TOKEN_TTL_S": "900",
        "BCRYPT_COST": "4",
    }
    secret_values = {"postgres/identity": IDENTITY._asdict(), "token-keys": KEY.secret}
    with deployed("identity", environment, secret_values=secret_values, key=KEY) as function:
        yield function


def test_register_log_in_and_ask_who_one_is(identity: Function) -> None:
    status, user, _ = identity.call("POST", "/api/auth/register", ANNA)
    assert status == 201
    assert identity.call("POST", "/api/auth/register", ANNA)[1]["code"] == "email_taken"

    status, session, _ = identity.call("POST", "/api/auth/login", ANNA)
    assert status == 200
    assert KEY.verifier().verify(session["token"]).user_id == user["id"]

    bearer = {"Authorization": f"Bearer {session['token']}"}
    status, me, _ = identity.call("GET", "/api/auth/me", headers=bearer)
    assert (status, me) == (200, user)
    assert identity.call("GET", "/api/auth/.well-known/jwks.json")[1] == {"keys": [KEY.jwk]}


def test_an_outage_is_told_and_passes(identity: Function, database: Server) -> None:
    identity.call("POST", "/api/auth/register", ANNA)
    database.stop()

    status, problem, headers = identity.call("POST", "/api/auth/login", ANNA)
    assert (status, problem["code"]) == (503, "temporarily_unavailable")
    assert headers["retry-after"]

    database.start()
    assert identity.call("POST", "/api/auth/login", ANNA)[0] == 200
