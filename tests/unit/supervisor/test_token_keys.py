"""Rings of token keys: who signs when, who verifies until when."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from identity.issuer import RING_TTL_S, TOKEN_TTL_LIMIT_S, KeyRing
from identity.routes import JWKS_MAX_AGE_S
from supervisor.secrets import keep, load_or_make, signing_key
from supervisor.settings import Settings
from supervisor.token_keys import (
    CLOCK_MARGIN,
    KEYS_LIMIT,
    SIGN_LEAD,
    TOKEN_LIFE_LIMIT,
    RotationError,
    only_newest,
    rotated,
    without_retired,
)
from ticketra.tokens import CLOCK_SKEW_S, KEYS_TTL_S

NOW = datetime(2030, 7, 20, 21, 0, tzinfo=UTC)
RETIRED = NOW + SIGN_LEAD
GONE = RETIRED + TOKEN_LIFE_LIMIT + CLOCK_MARGIN
SECOND = timedelta(seconds=1)


def _kids(ring: Any) -> list[str]:
    return [key["kid"] for key in ring["keys"]]


@pytest.fixture
def first() -> Any:
    key = signing_key()
    return {"active": key["kid"], "keys": [key]}


def test_a_new_key_is_published_and_signs_only_later(first: Any) -> None:
    new = signing_key()

    ring = rotated(first, new, NOW)

    assert ring["active"] == first["active"]
    assert ring["next"] == {"kid": new["kid"], "signs_from": RETIRED.isoformat()}
    assert _kids(ring) == [new["kid"], first["active"]]
    assert len(KeyRing.from_secret(json.dumps(ring)).jwks()["keys"]) == 2


def test_the_lead_outlasts_every_cache_of_the_keys() -> None:
    assert SIGN_LEAD.total_seconds() > RING_TTL_S + max(KEYS_TTL_S, JWKS_MAX_AGE_S) + CLOCK_SKEW_S


def test_one_rotation_at_a_time(first: Any) -> None:
    ring = rotated(first, signing_key(), NOW)

    with pytest.raises(RotationError, match=r"2030-07-20T21:10:00\+00:00"):
        rotated(ring, signing_key(), RETIRED - SECOND)

    new = signing_key()
    again = rotated(ring, new, RETIRED)
    assert (again["active"], again["next"]["kid"]) == (ring["next"]["kid"], new["kid"])
    assert [key.get("retired_at") for key in again["keys"]] == [None, None, RETIRED.isoformat()]


def test_a_retired_key_verifies_until_its_last_token_has_expired(first: Any) -> None:
    new = signing_key()
    ring = rotated(first, new, NOW)

    for moment in (NOW, RETIRED - SECOND, RETIRED, GONE - SECOND):
        assert _kids(without_retired(ring, moment)) == [new["kid"], first["active"]]
    assert without_retired(ring, GONE) == {"active": new["kid"], "keys": [new]}


def test_a_key_that_signs_is_never_dropped(first: Any) -> None:
    assert without_retired(first, GONE) == first


def test_in_an_emergency_the_newest_key_signs_alone_and_at_once(first: Any) -> None:
    new = signing_key()

    assert only_newest(rotated(first, new, NOW)) == {"active": new["kid"], "keys": [new]}
    assert only_newest(first) == first


def test_the_published_set_stays_bounded(first: Any) -> None:
    ring, now = first, NOW
    for _ in range(KEYS_LIMIT - 1):
        ring, now = rotated(ring, signing_key(), now), now + SIGN_LEAD

    with pytest.raises(RotationError, match="drop the retired ones"):
        rotated(ring, signing_key(), now)

    assert len(json.dumps(KeyRing.from_secret(json.dumps(ring)).jwks())) < 4096


def test_an_access_token_lives_no_longer_than_is_waited_for() -> None:
    assert TOKEN_LIFE_LIMIT.total_seconds() >= TOKEN_TTL_LIMIT_S


def test_the_secrets_file_keeps_a_rotation_and_all_else(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    before = load_or_make(settings)
    ring = rotated(before.token_keys, signing_key(), NOW)

    keep(settings, before.with_token_keys(ring))

    after = load_or_make(settings)
    assert after.token_keys == ring
    assert after.login("redis") == before.login("redis")
    assert len(json.loads(after.jwks())["keys"]) == 2
