"""Refresh tokens, logging out and changing the password, through HTTP."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from identity.sessions import KeptToken, Verdict, verdict_on
from tests.unit.identity.fakes import REFRESH_TTL_S, TTL_S, Identity
from ticketra.tokens import Principal

ANNA = {"email": "anna@example.com", "password": "correct horse"}
NEW_PASSWORD = "battery staple"
NOW = datetime(2030, 7, 20, 21, 0, tzinfo=UTC)


@pytest.fixture
def identity() -> Identity:
    identity = Identity()
    identity.http.post("/api/auth/register", json=ANNA)
    return identity


def _log_in(identity: Identity) -> dict[str, Any]:
    answer: dict[str, Any] = identity.http.post("/api/auth/login", json=ANNA).json()
    return answer


def _refresh(identity: Identity, refresh_token: str) -> httpx.Response:
    body = {"refresh_token": refresh_token}
    answer: httpx.Response = identity.http.post("/api/auth/refresh", json=body)
    return answer


def _log_out(identity: Identity, refresh_token: str) -> httpx.Response:
    body = {"refresh_token": refresh_token}
    answer: httpx.Response = identity.http.post("/api/auth/logout", json=body)
    return answer


def _change(identity: Identity, session: dict[str, Any], **changes: str) -> httpx.Response:
    body = {"current_password": ANNA["password"], "new_password": NEW_PASSWORD} | changes
    bearer = {"Authorization": f"Bearer {session['token']}"}
    answer: httpx.Response = identity.http.post("/api/auth/password", json=body, headers=bearer)
    return answer


def _is_refused(answer: httpx.Response) -> bool:
    return (answer.status_code, answer.json()["code"]) == (401, "invalid_refresh_token")


@pytest.mark.parametrize(
    ("is_spent", "is_revoked", "expires_in_s", "verdict"),
    [
        (False, False, 1, Verdict.ROTATE),
        (False, False, 0, Verdict.REFUSE),
        (False, True, 1, Verdict.REFUSE),
        (True, False, 1, Verdict.REVOKE_FAMILY),
        (True, False, 0, Verdict.REFUSE),
        (True, True, 1, Verdict.REFUSE),
    ],
)
def test_what_becomes_of_a_token(
    is_spent: bool, is_revoked: bool, expires_in_s: int, verdict: Verdict
) -> None:
    expires_at = NOW + timedelta(seconds=expires_in_s)

    assert verdict_on(KeptToken(uuid4(), expires_at, is_spent, is_revoked), NOW) is verdict


def test_login_gives_a_refresh_token_and_only_its_hash_is_kept(identity: Identity) -> None:
    session = _log_in(identity)

    assert set(session) == {"token", "token_type", "expires_in", "refresh_token"}
    assert len(session["refresh_token"]) == 43  # 256 bits in base64url
    expected = hashlib.sha256(session["refresh_token"].encode()).digest()
    assert list(identity.users.tokens) == [expected]


def test_a_refresh_gives_the_next_pair(identity: Identity) -> None:
    first = _log_in(identity)
    user_id = str(identity.users.rows[0][0].id)

    answer = _refresh(identity, first["refresh_token"])

    second = answer.json()
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert (second["token_type"], second["expires_in"]) == ("Bearer", TTL_S)
    assert identity.verifier.verify(second["token"]) == Principal(user_id, "user")
    assert second["refresh_token"] != first["refresh_token"]
    assert _refresh(identity, second["refresh_token"]).status_code == 200


def test_a_refreshed_token_says_what_the_user_may_do_now(identity: Identity) -> None:
    session = _log_in(identity)
    user, password_hash = identity.users.rows[0]
    identity.users.rows[0] = (user.model_copy(update={"role": "admin"}), password_hash)

    token = _refresh(identity, session["refresh_token"]).json()["token"]

    assert identity.verifier.verify(token).role == "admin"


def test_a_spent_token_that_comes_again_ends_its_family_and_no_other(identity: Identity) -> None:
    other = _log_in(identity)
    first = _log_in(identity)
    second = _refresh(identity, first["refresh_token"]).json()
    third = _refresh(identity, second["refresh_token"]).json()

    replay = _refresh(identity, first["refresh_token"])

    assert _is_refused(replay)
    assert replay.headers["www-authenticate"].startswith("Bearer")
    assert _is_refused(_refresh(identity, third["refresh_token"]))
    assert _refresh(identity, other["refresh_token"]).status_code == 200


def test_a_session_ends_when_it_is_left_alone_for_too_long(identity: Identity) -> None:
    session = _log_in(identity)
    for _ in range(3):
        identity.passed += timedelta(seconds=REFRESH_TTL_S - 60)
        session = _refresh(identity, session["refresh_token"]).json()

    identity.passed += timedelta(seconds=REFRESH_TTL_S)

    assert _is_refused(_refresh(identity, session["refresh_token"]))


def test_an_outage_of_the_keys_costs_no_session(identity: Identity) -> None:
    """A token that is spent before the next can be signed could never be used again."""
    session = _log_in(identity)
    ring, identity.ring = identity.ring, None

    assert _refresh(identity, session["refresh_token"]).status_code == 503
    assert identity.http.post("/api/auth/login", json=ANNA).status_code == 503
    assert len(identity.users.tokens) == 1

    identity.ring = ring
    assert _refresh(identity, session["refresh_token"]).status_code == 200


def test_only_refresh_tokens_are_refresh_tokens(identity: Identity) -> None:
    session = _log_in(identity)

    assert _is_refused(_refresh(identity, "x" * 43))
    assert _is_refused(_refresh(identity, "ü"))
    assert _is_refused(_refresh(identity, session["refresh_token"] + "="))
    too_long = _refresh(identity, session["token"])
    assert (too_long.status_code, too_long.json()["code"]) == (422, "validation_failed")
    assert session["token"] not in too_long.text


def test_logout_ends_the_session_and_no_other(identity: Identity) -> None:
    other, first = _log_in(identity), _log_in(identity)
    second = _refresh(identity, first["refresh_token"]).json()

    answer = _log_out(identity, second["refresh_token"])

    assert (answer.status_code, answer.content) == (204, b"")
    assert _is_refused(_refresh(identity, second["refresh_token"]))
    assert _log_out(identity, second["refresh_token"]).status_code == 204
    assert _refresh(identity, other["refresh_token"]).status_code == 200


def test_whoever_has_any_token_of_a_family_may_end_it(identity: Identity) -> None:
    first = _log_in(identity)
    second = _refresh(identity, first["refresh_token"]).json()

    assert _log_out(identity, first["refresh_token"]).status_code == 204

    assert _is_refused(_refresh(identity, second["refresh_token"]))


def test_logout_tells_nothing_of_a_token_that_there_is_not(identity: Identity) -> None:
    assert _log_out(identity, "x" * 43).status_code == 204


def test_a_new_password_ends_every_session(identity: Identity) -> None:
    sessions = [_log_in(identity) for _ in range(2)]

    answer = _change(identity, sessions[0])

    assert (answer.status_code, answer.content) == (204, b"")
    assert all(_is_refused(_refresh(identity, s["refresh_token"])) for s in sessions)
    assert identity.http.post("/api/auth/login", json=ANNA).status_code == 401
    again = identity.http.post("/api/auth/login", json=ANNA | {"password": NEW_PASSWORD})
    assert again.status_code == 200


def test_a_wrong_current_password_changes_nothing(identity: Identity) -> None:
    session = _log_in(identity)

    answer = _change(identity, session, current_password="incorrect horse")

    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_credentials")
    assert _refresh(identity, session["refresh_token"]).status_code == 200
    assert identity.http.post("/api/auth/login", json=ANNA).status_code == 200


@pytest.mark.parametrize("password", ["seven77", "x" * 73, "ü" * 37, "with\u0000null"])
def test_a_new_password_has_to_be_a_good_one(identity: Identity, password: str) -> None:
    answer = _change(identity, _log_in(identity), new_password=password)

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert answer.json()["errors"][0]["field"] == "new_password"


def test_who_changes_a_password_must_be_somebody(identity: Identity) -> None:
    session = _log_in(identity)
    identity.users.rows.clear()
    body = {"current_password": "a", "new_password": NEW_PASSWORD}

    for policy in (identity, Identity("open")):
        nobody = policy.http.post("/api/auth/password", json=body)
        assert (nobody.status_code, nobody.json()["code"]) == (401, "authentication_required")
    gone = _change(identity, session)
    assert (gone.status_code, gone.json()["code"]) == (401, "invalid_token")


@pytest.mark.parametrize("current", ["correct horse", "incorrect horse", "ü" * 37])
def test_every_check_of_a_current_password_costs_one_hash(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, current: str
) -> None:
    import bcrypt

    session = _log_in(identity)
    checks: list[bytes] = []
    check = bcrypt.checkpw

    def counted(password: bytes, password_hash: bytes) -> bool:
        checks.append(password_hash[:7])
        return check(password, password_hash)

    monkeypatch.setattr(bcrypt, "checkpw", counted)

    _change(identity, session, current_password=current)

    assert checks == [b"$2b$04$"]


def test_a_session_does_not_begin_with_a_password_that_was_changed_meanwhile(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bcrypt

    session = _log_in(identity)
    check = bcrypt.checkpw

    def overtaken(password: bytes, password_hash: bytes) -> bool:
        monkeypatch.setattr(bcrypt, "checkpw", check)
        assert _change(identity, session).status_code == 204
        return check(password, password_hash)

    monkeypatch.setattr(bcrypt, "checkpw", overtaken)

    late = identity.http.post("/api/auth/login", json=ANNA)

    assert (late.status_code, late.json()["code"]) == (401, "invalid_credentials")
