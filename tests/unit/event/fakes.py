"""The event function in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi.testclient import TestClient

from event.changes import Changes
from event.listing import Listing, ListQuery, Total
from event.logic import Events
from event.models import CreationKey, Event, KeptEvent
from event.ports import Sale
from event.routes import build_app
from tests.unit.common.support import SigningKey
from ticketra.auth import AccessPolicy
from ticketra.errors import Conflict, Unavailable

NOW = datetime(2030, 1, 1, tzinfo=UTC)
CONCERT = {
    "title": "Concert",
    "location": "Harbiye",
    "date": "2030-07-20T21:00:00Z",
    "total_tickets": 100,
}


class InMemoryEvents:
    """Keeps events in a dictionary; see `event.ports.EventStore`. Filters and counts nothing."""

    def __init__(self) -> None:
        self.kept: dict[str, KeptEvent] = {}
        self.keys: dict[str, CreationKey] = {}
        self.queries: list[ListQuery] = []
        self.total: Total | None = None
        self.away = False
        self.before_finish: Callable[[], None] = _nothing

    @property
    def events(self) -> list[Event]:
        return [known.event for known in self.kept.values()]

    def get(self, event_id: str) -> Event | None:
        known = self.load(event_id)
        return None if known is None else known.event

    def load(self, event_id: str) -> KeptEvent | None:
        self._answer()
        return self.kept.get(event_id)

    def page(self, query: ListQuery) -> Listing:
        self._answer()
        self.queries.append(query)
        newest = self.events[::-1]
        skip = (query.page_number - 1) * query.limit
        if query.after is not None:
            ids = [event.id for event in newest]
            skip = ids.index(query.after.event_id) + 1
        page = newest[skip : skip + query.limit]
        total = self.total or Total(len(newest), exact=True)
        return Listing(page, len(newest) > skip + query.limit, total if query.counts else None)

    def insert(self, event: Event) -> bool:
        self._answer()
        if event.id in self.kept:
            return False
        self.kept[event.id] = KeptEvent(event, event.version, None)
        return True

    def key(self, key_id: str) -> CreationKey | None:
        self._answer()
        return self.keys.get(key_id)

    def claim_key(self, key: CreationKey) -> CreationKey:
        self._answer()
        return self.keys.setdefault(key.id, key)

    def replace(self, known: KeptEvent, changed: Event) -> bool:
        self._answer()
        if self.kept[changed.id] != known:
            return False
        self.kept[changed.id] = KeptEvent(changed, known.sale_version, None)
        return True

    def prepare(self, known: KeptEvent, changed: Event) -> bool:
        self._answer()
        if self.kept[changed.id] != known or known.prepared is not None:
            return False
        self.kept[changed.id] = KeptEvent(known.event, changed.version, changed)
        return True

    def finish(self, event_id: str, version: int) -> Event | None:
        self.before_finish()
        self._answer()
        known = self.kept[event_id]
        if known.prepared is None or known.prepared.version != version:
            return None
        self.kept[event_id] = KeptEvent(known.prepared, known.sale_version, None)
        return known.prepared

    def give_up(self, event_id: str, version: int, *, sale_version: int) -> None:
        self._answer()
        known = self.kept[event_id]
        if known.prepared is not None and known.prepared.version == version:
            self.kept[event_id] = KeptEvent(
                known.event, max(known.sale_version, sale_version), None
            )

    def _answer(self) -> None:
        if self.away:
            raise Unavailable("temporarily_unavailable", "Away.", retry_after_s=2)


@dataclass
class SoldEvent:
    """A sale: the event on whose terms it is, and the tickets that are held or sold."""

    event: Event
    taken: int = 0
    closed: bool = False

    def state(self) -> Sale:
        return Sale(self.event.version, self.event.total_tickets - self.taken, self.closed)


class InMemorySales:
    """Sells in memory by the booking service's rules; see `event.ports.Sales`."""

    def __init__(self) -> None:
        self.sold: dict[str, SoldEvent] = {}
        self.asked: list[list[str]] = []
        self.away = False
        self.lose_answers = False
        self.before_put: Callable[[Event], None] = _nothing

    def put(self, event: Event, *, request_id: str) -> Sale:
        before, self.before_put = self.before_put, _nothing
        before(event)
        self._answer()
        sale = self.sold.setdefault(event.id, SoldEvent(event))
        if event.version > sale.event.version:
            if sale.closed:
                raise Conflict("sale_closed", "Closed.")
            if event.total_tickets < sale.taken:
                raise Conflict("capacity_below_sold", "Sold.")
            sale.event = event
        self._lose()
        return sale.state()

    def close(self, event: Event, *, request_id: str) -> Sale | None:
        self._answer()
        sale = self.sold.get(event.id)
        if sale is None:
            return None
        if event.version > sale.event.version and not sale.closed:
            sale.event, sale.closed = replace(sale.event, version=event.version), True
        self._lose()
        return sale.state()

    def remaining(self, event_ids: Sequence[str], *, request_id: str) -> dict[str, int]:
        self._answer()
        self.asked.append(list(event_ids))
        return {
            event_id: self.sold[event_id].state().remaining
            for event_id in event_ids
            if event_id in self.sold
        }

    def _answer(self) -> None:
        if self.away:
            raise Unavailable("booking_unavailable", "Away.", retry_after_s=1)

    def _lose(self) -> None:
        if self.lose_answers:
            self.lose_answers = False
            raise Unavailable("booking_unavailable", "Lost.", retry_after_s=1)


def _nothing(*_: object) -> None:
    pass


class EventFunction:
    """The whole function on top of the fakes, reached through HTTP."""

    def __init__(self, policy: AccessPolicy = "strict") -> None:
        self.store = InMemoryEvents()
        self.sales = InMemorySales()
        self.key = SigningKey()
        self.now = NOW
        self._minted = 0
        events = Events(
            self.store, self.sales, policy=policy, clock=self._clock, new_id=self._new_id
        )
        changes = Changes(self.store, self.sales, policy=policy, clock=self._clock)
        self.app = build_app(events, changes, verifier=self.key.verifier(), policy=policy)
        self.http = TestClient(self.app)

    def create(self, *, headers: dict[str, str] | None = None, **changes: Any) -> Any:
        """Create CONCERT with `changes` as USER_ID."""
        sent = self.key.bearer() | (headers or {})
        return self.http.post("/api/events", json=CONCERT | changes, headers=sent)

    def patch(self, event_id: str, body: Any, *, tag: str | None = None, **claims: Any) -> Any:
        """Change an event as USER_ID, or as whom the claims name, with `tag` as If-Match."""
        sent = self.key.bearer(**claims) | ({} if tag is None else {"If-Match": tag})
        return self.http.patch(f"/api/events/{event_id}", json=body, headers=sent)

    def delete(self, event_id: str, *, tag: str | None = None, **claims: Any) -> Any:
        """Cancel an event as USER_ID, or as whom the claims name."""
        sent = self.key.bearer(**claims) | ({} if tag is None else {"If-Match": tag})
        return self.http.delete(f"/api/events/{event_id}", headers=sent)

    def _clock(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now

    def _new_id(self) -> str:
        self._minted += 1
        return f"{self._minted:024x}"
