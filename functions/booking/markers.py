"""Sold-out markers: a short memory of sales that have nothing left.

A marker lives at most MARKER_TTL_S and carries the sale's stock version. A reopening carries the
next one, so a marker that was decided before it and comes after it is ignored.
"""

import time
from collections.abc import Callable

MARKER_TTL_S = 1.0
MARKER_LIMIT = 10_000


class SoldOutMarkers:
    """Which sales are known to be sold out, by event id."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._expires_at: dict[str, float] = {}
        self._reopened: dict[str, tuple[int, float]] = {}

    def put(self, event_id: str, stock_version: int, seen_at: float) -> None:
        """Note that the sale had nothing left at `seen_at` (monotonic), in `stock_version`."""
        reopened = self._reopened.get(event_id)
        if reopened is not None and stock_version < reopened[0]:
            return
        if len(self._expires_at) >= MARKER_LIMIT:
            self._forget_expired()
        if len(self._expires_at) < MARKER_LIMIT:
            self._expires_at[event_id] = seen_at + MARKER_TTL_S

    def is_sold_out(self, event_id: str) -> bool:
        """Say whether the sale had nothing left within the last MARKER_TTL_S."""
        expires_at = self._expires_at.get(event_id)
        if expires_at is None:
            return False
        if self._monotonic() < expires_at:
            return True
        del self._expires_at[event_id]
        return False

    def reopen(self, event_id: str, stock_version: int) -> None:
        """Forget what was known of the sale before `stock_version`.

        An announcement that comes after a newer one says nothing new.
        """
        reopened = self._reopened.get(event_id)
        if reopened is not None and stock_version <= reopened[0]:
            return
        self._expires_at.pop(event_id, None)
        if len(self._reopened) >= MARKER_LIMIT:
            self._forget_expired()
        if len(self._reopened) < MARKER_LIMIT:
            # A decision that is older than the longest transaction cannot arrive any more.
            self._reopened[event_id] = (stock_version, self._monotonic() + 10 * MARKER_TTL_S)

    def _forget_expired(self) -> None:
        now = self._monotonic()
        self._expires_at = {e: t for e, t in self._expires_at.items() if t > now}
        self._reopened = {e: v for e, v in self._reopened.items() if v[1] > now}
