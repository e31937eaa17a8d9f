"""The keys that access tokens are signed with, and how one gives way to the next.

They are kept as identity reads them: `{"active": kid, "next": {"kid", "signs_from"}, "keys": []}`,
the newest key first. `next` is there while a rotation is under way: a new key is published, and
signs only from `signs_from` on, when no cache of the key set is left that does not hold it. A key
that has given way carries `retired_at`; it verifies on, until its last token has expired.
Everything here takes and returns such rings and does no input or output.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

# A new key's lead. The caches to outlast: the functions' copies of the key set (300 s), identity's
# copy of the ring (60 s), and behind it what HTTP caches keep of the published set (300 s).
SIGN_LEAD = timedelta(seconds=600)
# The longest life of an access token that identity can be set to, and some for clocks that differ.
TOKEN_LIFE_LIMIT = timedelta(seconds=86_400)
CLOCK_MARGIN = timedelta(seconds=60)
KEYS_LIMIT = 10  # a published set has to fit into one SSM parameter of 4 KB

Ring = Mapping[str, Any]


class RotationError(Exception):
    """The keys cannot be changed now; the message says when or how they can."""


def rotated(ring: Ring, new_key: Mapping[str, str], now: datetime) -> Ring:
    """Return `ring` with `new_key`, which takes over after SIGN_LEAD.

    Raises:
        RotationError: a rotation is under way, or there are too many keys.

    """
    settled = _settled(ring, now)
    if "next" in settled:
        raise RotationError(
            f"A rotation is under way: the new key signs from {settled['next']['signs_from']} on."
        )
    if len(settled["keys"]) >= KEYS_LIMIT:
        raise RotationError(f"There are {KEYS_LIMIT} keys: drop the retired ones first (DROP=1).")
    signs_from = (now + SIGN_LEAD).isoformat(timespec="seconds")
    return {
        "active": settled["active"],
        "next": {"kid": new_key["kid"], "signs_from": signs_from},
        "keys": [new_key, *settled["keys"]],
    }


def without_retired(ring: Ring, now: datetime) -> Ring:
    """Return `ring` without the keys of which no token can be valid any more."""
    settled = _settled(ring, now)
    kept = [key for key in settled["keys"] if "retired_at" not in key or now < droppable_at(key)]
    return {**settled, "keys": kept}


def only_newest(ring: Ring) -> Ring:
    """Return a ring of the newest key alone, which signs at once: tokens of all others end."""
    kid = ring["next"]["kid"] if "next" in ring else ring["active"]
    return {"active": kid, "keys": [key for key in ring["keys"] if key["kid"] == kid]}


def droppable_at(retired_key: Mapping[str, str]) -> datetime:
    """Return when the last token of a retired key has surely expired."""
    return datetime.fromisoformat(retired_key["retired_at"]) + TOKEN_LIFE_LIMIT + CLOCK_MARGIN


def retired(ring: Ring, now: datetime) -> list[Mapping[str, str]]:
    """Return the keys that have given way and still verify."""
    return [key for key in _settled(ring, now)["keys"] if "retired_at" in key]


def _settled(ring: Ring, now: datetime) -> Ring:
    """Return `ring` with a rotation that has come to its end written down."""
    following = ring.get("next")
    if following is None or now < datetime.fromisoformat(following["signs_from"]):
        return ring
    keys = [
        {**key, "retired_at": following["signs_from"]} if key["kid"] == ring["active"] else key
        for key in ring["keys"]
    ]
    return {"active": following["kid"], "keys": keys}
