"""The event function in memory."""

from collections.abc import Sequence
from datetime import UTC, datetime

from fastapi.testclient import TestClient

from event.logic import Events
from event.models import Event
from event.routes import build_app
from tests.unit.common.support import SigningKey
from ticketra.auth import AccessPolicy
from ticketra.errors import Unavailable

NOW = datetime(2030, 1, 1, tzinfo=UTC)
CONCERT = {
    "title": "Concert",
    "location": "Harbiye",
    "date": "2030-07-20T21:00:00Z",
    "total_tickets": 100,
}


class InMemoryEvents:
    """Keeps events in a list; see `event.logic.EventStore`."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.away = False

    def insert(self, event: Event) -> None:
        self._answer()
        self.events.append(event)

    def get(self, event_id: str) -> Event | None:
        self._answer()
        return next((event for event in self.events if event.id == event_id), None)

    def page(self, *, skip: int, limit: int) -> Sequence[Event]:
        self._answer()
        return self.events[::-1][skip : skip + limit]

    def count(self) -> int:
        return len(self.events)

    def _answer(self) -> None:
        if self.away:
            raise Unavailable("temporarily_unavailable", "Away.", retry_after_s=2)


class InMemorySales:
    """Sells in memory; see `event.logic.Sales`."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}
        self.asked: list[list[str]] = []
        self.away = False

    def put(self, event: Event, *, request_id: str) -> int:
        self._answer()
        return self.left.setdefault(event.id, event.total_tickets)

    def remaining(self, event_ids: Sequence[str], *, request_id: str) -> dict[str, int]:
        self._answer()
        self.asked.append(list(event_ids))
        return {event_id: self.left[event_id] for event_id in event_ids if event_id in self.left}

    def _answer(self) -> None:
        if self.away:
            raise Unavailable("booking_unavailable", "Away.", retry_after_s=1)


class EventFunction:
    """The whole function on top of the fakes, reached through HTTP."""

    def __init__(self, policy: AccessPolicy = "strict") -> None:
        self.store = InMemoryEvents()
        self.sales = InMemorySales()
        self.key = SigningKey()
        self._minted = 0
        events = Events(
            self.store, self.sales, policy=policy, clock=lambda: NOW, new_id=self._new_id
        )
        self.app = build_app(events, verifier=self.key.verifier(), policy=policy)
        self.http = TestClient(self.app)

    def _new_id(self) -> str:
        self._minted += 1
        return f"{self._minted:024x}"
