"""Attacks on access tokens, and the verifier's care for its keys."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.common.support import AUDIENCE, ISSUER, OTHER_ID, USER_ID, SigningKey
from ticketra.auth import principal_of
from ticketra.errors import Unauthenticated, Unavailable
from ticketra.tokens import (
    CLOCK_SKEW_S,
    KEYS_MIN_REFRESH_S,
    KEYS_TTL_S,
    Principal,
    TokenVerifier,
)

KEY = SigningKey()


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _hmac_token(algorithm: str) -> str:
    """Sign with the public key as if it were a shared secret, which libraries once took."""
    signed = f"{_part({'alg': algorithm, 'kid': KEY.kid, 'typ': 'at+jwt'})}.{_part(KEY.claims())}"
    digest = hmac.new(KEY.public_pem, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def _signed(headers: dict[str, Any], key: SigningKey = KEY) -> str:
    """Sign by hand, because a library would not make some of these headers."""
    signed = f"{_part({'alg': 'EdDSA'} | headers)}.{_part(key.claims())}"
    signature = key.private.sign(signed.encode())
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _tampered() -> str:
    header, _, signature = KEY.token().split(".")
    return f"{header}.{_part(KEY.claims(role='admin'))}.{signature}"


def _nested_header() -> str:
    deep = base64.urlsafe_b64encode(b'{"kid":' + b"[" * 100_000).rstrip(b"=").decode()
    return f"{deep}.e30.AA"


VALID_HEADERS = {"kid": KEY.kid, "typ": "at+jwt"}
# Made when they are used: a token made at the start of a long run has expired by then.
ATTACKS: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "not a token": lambda: "abc",
    "three empty parts": lambda: "..",
    "unsigned": lambda: f"{_part({'alg': 'none', **VALID_HEADERS})}.{_part(KEY.claims())}.",
    "public key as HS256 secret": lambda: _hmac_token("HS256"),
    "HS256 said to be EdDSA": lambda: _hmac_token("EdDSA"),
    "another key under our kid": lambda: _signed(VALID_HEADERS, SigningKey()),
    "unknown kid": lambda: _signed({"kid": "key-2", "typ": "at+jwt"}),
    "kid is a number": lambda: _signed({"kid": 1, "typ": "at+jwt"}),
    "kid is a list": lambda: _signed({"kid": [KEY.kid], "typ": "at+jwt"}),
    "no type": lambda: _signed({"kid": KEY.kid}),
    "critical extension": lambda: _signed(VALID_HEADERS | {"crit": ["x"], "x": 1}),
    "no kid": lambda: _signed({"typ": "at+jwt"}),
    "an id token": lambda: _signed({"kid": KEY.kid, "typ": "JWT"}),
    "tampered claims": _tampered,
    "other issuer": lambda: KEY.token(iss="https://elsewhere.test"),
    "other audience": lambda: KEY.token(aud="other"),
    "no expiry": lambda: KEY.token(exp=None),
    "no subject": lambda: KEY.token(sub=None),
    "no id": lambda: KEY.token(jti=None),
    "no role": lambda: KEY.token(role=None),
    "unknown role": lambda: KEY.token(role="root"),
    "role is a list": lambda: KEY.token(role=["admin"]),
    "subject is a number": lambda: KEY.token(sub=7),
    "issued in the future": lambda: KEY.token(iat=int(time.time()) + 600),
    "header nested without end": _nested_header,
    "not ASCII": lambda: "é.é.é",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_refuses(attack: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        KEY.verifier().verify(ATTACKS[attack]())

    assert caught.value.code == "invalid_token"


def test_accepts_what_identity_signs() -> None:
    assert KEY.verifier().verify(_signed(VALID_HEADERS)) == Principal(USER_ID, "user")
    assert KEY.verifier().verify(KEY.token()) == Principal(USER_ID, "user")
    assert KEY.verifier().verify(KEY.token(sub=OTHER_ID, role="admin")).role == "admin"


def test_says_when_a_token_has_expired() -> None:
    now = int(time.time())

    with pytest.raises(Unauthenticated) as caught:
        KEY.verifier().verify(KEY.token(exp=now - CLOCK_SKEW_S - 2))

    assert caught.value.code == "token_expired"


@pytest.mark.parametrize("header", ["Basic abc", "Bearer", "Bearer ", "", "token"])
def test_refuses_a_header_without_a_bearer_token(header: str) -> None:
    with pytest.raises(Unauthenticated):
        principal_of(header, KEY.verifier())


def test_takes_the_scheme_in_any_case_and_no_header_at_all() -> None:
    assert principal_of(f"bEARER {KEY.token()}", KEY.verifier()) is not None
    assert principal_of(None, KEY.verifier()) is None


class Published:
    """A key set that can change or be away, and a clock that tests set."""

    def __init__(self, *keys: SigningKey) -> None:
        self.keys = list(keys)
        self.reads = 0
        self.now = 1000.0
        self.away = False

    def load(self) -> str:
        self.reads += 1
        if self.away:
            raise Unavailable("temporarily_unavailable", "Away.")
        return json.dumps({"keys": [key.jwk for key in self.keys]})

    def verifier(self) -> TokenVerifier:
        return TokenVerifier(
            self.load, issuer=ISSUER, audience=AUDIENCE, monotonic=lambda: self.now
        )


def test_a_new_key_is_found_after_a_rotation() -> None:
    new = SigningKey("key-2")
    published = Published(KEY)
    verifier = published.verifier()
    verifier.verify(KEY.token())
    published.keys.append(new)
    published.now += KEYS_MIN_REFRESH_S

    assert verifier.verify(new.token()).user_id == USER_ID
    assert verifier.verify(KEY.token()).user_id == USER_ID


def test_forged_key_ids_do_not_make_it_read_without_end() -> None:
    published = Published(KEY)
    verifier = published.verifier()
    for number in range(50):
        with pytest.raises(Unauthenticated):
            verifier.verify(SigningKey(f"forged-{number}").token())

    assert published.reads == 1


def test_a_withdrawn_key_is_refused_once_the_set_is_read_again() -> None:
    published = Published(KEY)
    verifier = published.verifier()
    verifier.verify(KEY.token())
    published.keys = [SigningKey("key-2")]
    published.now += KEYS_TTL_S

    with pytest.raises(Unauthenticated):
        verifier.verify(KEY.token())


def test_known_keys_serve_while_the_set_cannot_be_read() -> None:
    published = Published(KEY)
    verifier = published.verifier()
    verifier.verify(KEY.token())
    published.away = True
    published.now += KEYS_TTL_S

    assert verifier.verify(KEY.token()).user_id == USER_ID
    with pytest.raises(Unavailable):
        verifier.verify(SigningKey("key-2").token())
