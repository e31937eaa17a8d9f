"""The identity function through its real entry point, on a real PostgreSQL."""

from collections.abc import Iterator

import pytest

from identity import attempt_store, slow_down
from tests.integration.functions import Function, deployed
from tests.integration.identity.conftest import IDENTITY
from tests.integration.servers import Server
from tests.unit.common.support import SigningKey

ANNA = {"email": "anna@example.com", "password": "correct horse"}
KEY = SigningKey()


@pytest.fixture
def identity(database: Server, counters: Server) -> Iterator[Function]:
    environment = {
        "ACCESS_POLICY": "strict",
        "POSTGRES_URL": f"{database.url}/auth",
        "POSTGRES_SECRET": "postgres/identity",
        "TOKEN_KEYS_SECRET": "token-keys",
        "TOKEN_TTL_S": "900",
        "BCRYPT_COST": "4",
        "REDIS_URL": counters.url,
        "REDIS_SECRET": "redis",
    }
    secret_values = {
        "postgres/identity": IDENTITY._asdict(),
        "token-keys": KEY.secret,
        "redis": {"username": "", "password": counters.password},
    }
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


def test_a_session_from_its_beginning_to_its_end(identity: Function) -> None:
    identity.call("POST", "/api/auth/register", ANNA)
    _, first, _ = identity.call("POST", "/api/auth/login", ANNA)

    body = {"refresh_token": first["refresh_token"]}
    status, second, _ = identity.call("POST", "/api/auth/refresh", body)
    assert status == 200
    assert KEY.verifier().verify(second["token"])

    body = {"refresh_token": second["refresh_token"]}
    assert identity.call("POST", "/api/auth/logout", body)[:2] == (204, None)
    status, problem, _ = identity.call("POST", "/api/auth/refresh", body)
    assert (status, problem["code"]) == (401, "invalid_refresh_token")


def test_a_new_password_replaces_the_old_one(identity: Function) -> None:
    identity.call("POST", "/api/auth/register", ANNA)
    _, session, _ = identity.call("POST", "/api/auth/login", ANNA)
    change = {"current_password": ANNA["password"], "new_password": "battery staple"}

    bearer = {"Authorization": f"Bearer {session['token']}"}
    assert identity.call("POST", "/api/auth/password", change, headers=bearer)[0] == 204

    assert identity.call("POST", "/api/auth/login", ANNA)[0] == 401
    new = ANNA | {"password": "battery staple"}
    assert identity.call("POST", "/api/auth/login", new)[0] == 200
    body = {"refresh_token": session["refresh_token"]}
    assert identity.call("POST", "/api/auth/refresh", body)[0] == 401


def test_guessing_is_slowed_down_with_redis_and_without(
    identity: Function, counters: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (slow_down, attempt_store):  # a pause of this machine is no second of waiting
        monkeypatch.setattr(module, "FIRST_WAIT_MS", slow_down.LONGEST_WAIT_MS)
    identity.call("POST", "/api/auth/register", ANNA)
    guess = ANNA | {"password": "incorrect horse"}
    guesses = [identity.call("POST", "/api/auth/login", guess)[0] for _ in range(7)]
    assert guesses == [401] * 5 + [429] * 2
    counters.stop()

    guesses = [identity.call("POST", "/api/auth/login", guess)[0] for _ in range(7)]

    assert guesses == [401] * 5 + [429] * 2
    status, problem, headers = identity.call("POST", "/api/auth/login", ANNA)
    assert (status, problem["code"]) == (429, "too_many_attempts")
    assert 0 < int(headers["retry-after"]) <= 60
