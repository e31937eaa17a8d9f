"""Attacks on access tokens, and the verifier's care for its keys."""

import json
import time

import pytest

from tests.unit.common.attacks import ATTACKS, KEY, KEY_HEADERS, VALID_HEADERS, signed
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


@pytest.mark.parametrize("attack", ATTACKS)
def test_refuses(attack: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        KEY.verifier().verify(ATTACKS[attack]())

    assert caught.value.code == "invalid_token"


def test_accepts_what_identity_signs() -> None:
    assert KEY.verifier().verify(signed(VALID_HEADERS)) == Principal(USER_ID, "user")
    assert KEY.verifier().verify(KEY.token()) == Principal(USER_ID, "user")
    assert KEY.verifier().verify(KEY.token(sub=OTHER_ID, role="admin")).role == "admin"


@pytest.mark.parametrize("name", KEY_HEADERS)
def test_a_header_that_names_a_key_is_not_even_looked_at(name: str) -> None:
    token = signed(VALID_HEADERS | {name: KEY_HEADERS[name]})

    assert KEY.verifier().verify(token) == Principal(USER_ID, "user")


def test_a_token_is_good_from_its_time_on() -> None:
    now = int(time.time())

    assert KEY.verifier().verify(KEY.token(nbf=now)).user_id == USER_ID
    assert KEY.verifier().verify(KEY.token(nbf=None)).user_id == USER_ID


def test_an_empty_token_is_none_of_ours() -> None:
    with pytest.raises(Unauthenticated):
        KEY.verifier().verify("")


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


def test_not_every_request_waits_for_a_set_that_cannot_be_read() -> None:
    published = Published(KEY)
    verifier = published.verifier()
    verifier.verify(KEY.token())
    published.away = True
    published.now += KEYS_TTL_S
    for _ in range(5):
        verifier.verify(KEY.token())
    assert published.reads == 2

    published.now += KEYS_MIN_REFRESH_S
    verifier.verify(KEY.token())

    assert published.reads == 3
