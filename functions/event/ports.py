"""What the logic needs from elsewhere: a place for events, and the booking service."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from event.listing import Listing, ListQuery
from event.models import CreationKey, Event, KeptEvent


class EventStore(Protocol):
    """Where events are kept. Every method raises Unavailable when that place is away."""

    def get(self, event_id: str) -> Event | None:
        """Return the event with this id, to be shown; None for anything that is not one."""

    def page(self, query: ListQuery) -> Listing:
        """Return the page of events that `query` asks for."""

    def insert(self, event: Event) -> bool:
        """Keep a new event; False: there is one with this id already."""

    def key(self, key_id: str) -> CreationKey | None:
        """Return the key with this id."""

    def claim_key(self, key: CreationKey) -> CreationKey:
        """Keep a new key, and return it, or the one that somebody kept before with its id."""

    def load(self, event_id: str) -> KeptEvent | None:
        """Return the event with this id, to be changed: never from a cache."""

    def replace(self, known: KeptEvent, changed: Event) -> bool:
        """Make `known` what it changed to; False: it is not as it was known any more."""

    def prepare(self, known: KeptEvent, changed: Event) -> bool:
        """Note what `known` is going to be; False: it is not as it was known any more."""

    def finish(self, event_id: str, version: int) -> Event | None:
        """Make an event what was prepared as `version`; None: that is not prepared any more."""

    def give_up(self, event_id: str, version: int, *, sale_version: int) -> None:
        """Forget what was prepared as `version`, but not that its sale may be at `sale_version`."""


class Sale(NamedTuple):
    """A sale as the booking service knows it after a call."""

    version: int
    remaining: int
    closed: bool


class Sales(Protocol):
    """The booking service, which sells the tickets. Every method may raise Unavailable."""

    def put(self, event: Event, *, request_id: str) -> Sale:
        """Open the sale of `event` on its terms, or change it; an older version changes nothing.

        Raises:
            Conflict: `capacity_below_sold`, `sale_closed`.

        """

    def close(self, event: Event, *, request_id: str) -> Sale | None:
        """End the sale of `event`; an older version changes nothing. None: it has none."""

    def remaining(self, event_ids: Sequence[str], *, request_id: str) -> dict[str, int]:
        """Return the tickets left of each event that has a sale."""
