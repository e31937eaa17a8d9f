"""The public keys that verify tickets, as they are published; the private ones never come here."""

import time
from collections.abc import Callable

from ticketra.errors import Unavailable

KEYS_TTL_S = 60.0
"""how late a rotation may be seen here"""


class PublishedKeys:
    """Keeps the key set (RFC 7517, JSON) that `load` returns for KEYS_TTL_S; a call returns it.

    While it cannot be read again the old one is served on: public keys stay true.
    """

    def __init__(
        self, load: Callable[[], str], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._load = load
        self._monotonic = monotonic
        self._keys: str | None = None
        self._loaded_at = 0.0

    def __call__(self) -> str:
        """Return the key set.

        Raises:
            Unavailable: it cannot be read, and never could.

        """
        if self._keys is not None and self._monotonic() - self._loaded_at < KEYS_TTL_S:
            return self._keys
        try:
            self._keys = self._load()
        except Unavailable:
            if self._keys is None:
                raise
        self._loaded_at = self._monotonic()
        return self._keys
