"""Rings of tickets' keys: the newest signs, the others verify on."""

import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.secrets import keep, load_or_make, signing_key
from supervisor.settings import Settings
from supervisor.ticket_keys import rotated
from supervisor.token_keys import KEYS_LIMIT, RotationError, only_newest

PARAMETER_LIMIT_CHARS = 4096


@pytest.fixture
def first() -> Any:
    key = signing_key()
    return {"active": key["kid"], "keys": [key]}


def test_a_new_key_signs_and_the_old_one_verifies_on(first: Any) -> None:
    new = signing_key()

    assert rotated(first, new) == {"active": new["kid"], "keys": [new, *first["keys"]]}


def test_only_the_newest_is_left_when_the_others_are_dropped(first: Any) -> None:
    new = signing_key()

    assert only_newest(rotated(first, new)) == {"active": new["kid"], "keys": [new]}


def test_the_published_set_stays_bounded(tmp_path: Path, first: Any) -> None:
    ring = first
    for _ in range(KEYS_LIMIT - 1):
        ring = rotated(ring, signing_key())

    with pytest.raises(RotationError, match="drop all but the newest"):
        rotated(ring, signing_key())

    secrets = load_or_make(Settings(home=tmp_path)).with_ticket_keys(ring)
    assert len(json.loads(secrets.tickets_jwks())["keys"]) == KEYS_LIMIT
    assert len(secrets.tickets_jwks()) < PARAMETER_LIMIT_CHARS


def test_the_secrets_file_keeps_a_rotation_and_all_else(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    before = load_or_make(settings)
    ring = rotated(before.ticket_keys, signing_key())

    keep(settings, before.with_ticket_keys(ring))

    after = load_or_make(settings)
    assert after.ticket_keys == ring
    assert (after.token_keys, after.login("redis")) == (before.token_keys, before.login("redis"))
