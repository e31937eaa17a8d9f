import json
from datetime import datetime
from typing import Any

import pytest

from tests.unit.common.support import LambdaContext, SigningKey, api_event
from tests.unit.identity.fakes import TTL_S, Identity
from ticketra.http import lambda_handler
from ticketra.tokens import Principal

ANNA = {"email": "anna@example.com", "password": "correct horse"}


@pytest.fixture
def identity() -> Identity:
    return Identity()


def _token(identity: Identity) -> str:
    identity.http.post("/api/auth/register", json=ANNA)
    token: str = identity.http.post("/api/auth/login", json=ANNA).json()["token"]
    return token


def test_register_answers_with_the_user(identity: Identity) -> None:
    answer = identity.http.post("/api/auth/register", json=ANNA)

    user = answer.json()
    assert answer.status_code == 201
    assert set(user) == {"id", "email", "role", "created_at"}
    assert (user["email"], user["role"]) == ("anna@example.com", "user")
    assert datetime.fromisoformat(user["created_at"]).utcoffset() is not None


def test_the_password_is_kept_as_a_bcrypt_hash_only(identity: Identity) -> None:
    identity.http.post("/api/auth/register", json=ANNA)

    _, password_hash = identity.users.rows[0]
    assert password_hash.startswith("$2b$04$")
    assert ANNA["password"] not in password_hash


def test_an_address_has_one_account_however_it_is_written(identity: Identity) -> None:
    identity.http.post("/api/auth/register", json=ANNA)

    again = identity.http.post("/api/auth/register", json=ANNA | {"email": " ANNA@Example.com "})

    assert (again.status_code, again.json()["code"]) == (409, "email_taken")
    assert len(identity.users.rows) == 1


def test_login_gives_a_token_that_verifies(identity: Identity) -> None:
    user = identity.http.post("/api/auth/register", json=ANNA).json()

    answer = identity.http.post("/api/auth/login", json=ANNA | {"email": "Anna@EXAMPLE.com"})

    body = answer.json()
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert (body["token_type"], body["expires_in"]) == ("Bearer", TTL_S)
    assert identity.verifier.verify(body["token"]) == Principal(user["id"], "user")


def test_a_wrong_password_and_an_unknown_address_look_the_same(identity: Identity) -> None:
    identity.http.post("/api/auth/register", json=ANNA)

    wrong = identity.http.post("/api/auth/login", json=ANNA | {"password": "incorrect horse"})
    unknown = identity.http.post("/api/auth/login", json=ANNA | {"email": "bea@example.com"})

    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json() | {"request_id": ""} == unknown.json() | {"request_id": ""}
    assert wrong.json()["code"] == "invalid_credentials"


@pytest.mark.parametrize("email", ["anna@example.com", "bea@example.com"])
def test_every_refused_login_costs_one_check_of_a_hash(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, email: str
) -> None:
    import bcrypt

    identity.http.post("/api/auth/register", json=ANNA)
    costs: list[bytes] = []
    check = bcrypt.checkpw

    def counted(password: bytes, password_hash: bytes) -> bool:
        costs.append(password_hash[:7])
        return check(password, password_hash)

    monkeypatch.setattr(bcrypt, "checkpw", counted)

    identity.http.post("/api/auth/login", json={"email": email, "password": "incorrect horse"})

    assert costs == [b"$2b$04$"]


def test_me_shows_whom_the_token_speaks_for(identity: Identity) -> None:
    token = _token(identity)

    answer = identity.http.get("/api/auth/me", headers={"Authorization": f"Bearer {token}"})

    assert (answer.status_code, answer.json()["email"]) == (200, "anna@example.com")


def test_me_needs_a_token_of_somebody_who_is_there(identity: Identity) -> None:
    token = _token(identity)
    identity.users.rows.clear()

    nobody = identity.http.get("/api/auth/me")
    gone = identity.http.get("/api/auth/me", headers={"Authorization": f"Bearer {token}"})

    assert (nobody.status_code, nobody.json()["code"]) == (401, "authentication_required")
    assert (gone.status_code, gone.json()["code"]) == (401, "invalid_token")


def test_me_refuses_a_token_that_somebody_else_signed(identity: Identity) -> None:
    answer = identity.http.get("/api/auth/me", headers=SigningKey().bearer())

    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")


def test_jwks_holds_public_keys_only(identity: Identity) -> None:
    answer = identity.http.get("/api/auth/.well-known/jwks.json")

    assert answer.json() == {"keys": [identity.key.jwk]}
    assert "max-age=300" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    "email", ["", "anna", "anna@", "@example.com", "a b@example.com", "a@b@c.de", "a@-b.de",
              "anna@example.com\u0000", "ann\u00e4@example.com", f"{'a' * 65}@example.com",
              f"a@{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 60}.{'f' * 60}.de", None, 7, {"$gt": ""}],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(identity: Identity, email: Any) -> None:
    answer = identity.http.post("/api/auth/register", json=ANNA | {"email": email})

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert answer.json()["errors"][0]["field"] == "email"


@pytest.mark.parametrize(
    ("password", "accepted"),
    [
        ("seven77", False),
        ("eight888", True),
        ("x" * 72, True),
        ("x" * 73, False),
        ("ü" * 36, True),
        ("ü" * 37, False),
        ("😀" * 18, True),
        ("😀" * 19, False),
        ("with\u0000null", False),
        (12345678, False),
    ],
)
def test_what_a_password_may_be(identity: Identity, password: Any, accepted: bool) -> None:
    body = ANNA | {"password": password}

    answer = identity.http.post("/api/auth/register", json=body)

    assert answer.status_code == (201 if accepted else 422)
    if accepted:
        assert identity.http.post("/api/auth/login", json=body).status_code == 200
    else:
        assert answer.json()["errors"][0]["field"] == "password"


def test_a_password_is_the_same_from_every_keyboard(identity: Identity) -> None:
    identity.http.post("/api/auth/register", json=ANNA | {"password": "caf\u00e9 au lait"})

    answer = identity.http.post("/api/auth/login", json=ANNA | {"password": "cafe\u0301 au lait"})

    assert answer.status_code == 200


def test_bytes_past_the_72nd_never_count(identity: Identity) -> None:
    identity.http.post("/api/auth/register", json=ANNA | {"password": "ü" * 36})

    answer = identity.http.post("/api/auth/login", json=ANNA | {"password": "ü" * 36 + "x"})

    assert answer.status_code == 401


def test_the_open_policy_takes_the_walk_throughs_password() -> None:
    body = {"email": "kerem@test.com", "password": "123"}

    assert Identity("strict").http.post("/api/auth/register", json=body).status_code == 422
    assert Identity("open").http.post("/api/auth/register", json=body).status_code == 201


def test_unknown_fields_are_refused(identity: Identity) -> None:
    answer = identity.http.post("/api/auth/register", json=ANNA | {"role": "admin"})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "role"


def test_answers_api_gateway(identity: Identity) -> None:
    handler = lambda_handler(identity.app)

    answer = handler(api_event("POST", "/api/auth/register", ANNA), LambdaContext())  # type: ignore[arg-type]

    assert answer["statusCode"] == 201
    assert json.loads(answer["body"])["email"] == "anna@example.com"
