"""The keys that tickets' codes are signed with, and how one gives way to the next.

They are kept as the booking task reads them when it starts: `{"active": kid, "keys": []}`, the
newest key first. A code does not expire, so that an old key verifies on until somebody drops it.
Everything here takes and returns such rings and does no input or output.
"""

from collections.abc import Mapping

from supervisor.token_keys import KEYS_LIMIT, Ring, RotationError


def rotated(ring: Ring, new_key: Mapping[str, str]) -> Ring:
    """Return `ring` with `new_key`, which signs from the next start of the booking task on.

    Raises:
        RotationError: there are too many keys.

    """
    if len(ring["keys"]) >= KEYS_LIMIT:
        raise RotationError(f"There are {KEYS_LIMIT} keys: drop all but the newest (DROP=now).")
    return {"active": new_key["kid"], "keys": [new_key, *ring["keys"]]}
