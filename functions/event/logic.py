"""Creating and showing events. Decides; the store and the sales only keep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from event.models import Event, EventBody, EventDraft, in_milliseconds
from ticketra.auth import AccessPolicy, required
from ticketra.errors import FieldError, Invalid, NotFound, Unavailable
from ticketra.ids import Clock
from ticketra.log import logger
from ticketra.tokens import Principal

ANONYMOUS = "anonymous"
FIRST_VERSION = 1


class EventStore(Protocol):
    """Where events are kept. Every method raises Unavailable when that place is away."""

    def insert(self, event: Event) -> None:
        """Keep a new event."""

    def get(self, event_id: str) -> Event | None:
        """Return the event with this id; None for anything that is not one."""

    def page(self, *, skip: int, limit: int) -> Sequence[Event]:
        """Return events, newest first."""

    def count(self) -> int:
        """Return how many events there are."""


class Sales(Protocol):
    """The booking service, which sells the tickets. Every method may raise Unavailable."""

    def put(self, event: Event, *, request_id: str) -> int:
        """Open the sale of `event` on its terms, or change it; return the tickets left."""

    def remaining(self, event_ids: Sequence[str], *, request_id: str) -> dict[str, int]:
        """Return the tickets left of each event that has a sale."""


@dataclass(frozen=True, slots=True)
class EventPage:
    """One page of events; `total` counts all of them, on every page."""

    events: list[EventBody]
    total: int


class Events:
    """What the event function does, under one access policy."""

    def __init__(
        self,
        store: EventStore,
        sales: Sales,
        *,
        policy: AccessPolicy,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._sales = sales
        self._policy = policy
        self._clock = clock
        self._new_id = new_id

    def create(
        self, draft: EventDraft, principal: Principal | None, *, request_id: str
    ) -> EventBody:
        """Put an event on sale for its organizer.

        The sale comes first: an event that can be seen can always be booked. If keeping the event
        then fails, what is left behind is a sale under an id that nobody knows.

        Raises:
            Unauthenticated: the policy asks for a token.
            Invalid: the event or the end of its sale has passed (strict policy).
            Unavailable: the booking service or the store is away.

        """
        organizer_id = self._organizer(principal)
        now = self._clock()
        if self._policy == "strict":
            _check_not_passed(draft, now)
        event = _event(self._new_id(), draft, organizer_id, in_milliseconds(now))
        available = self._sales.put(event, request_id=request_id)
        self._store.insert(event)
        return EventBody.of(event, available)

    def get(self, event_id: str, *, request_id: str) -> EventBody:
        """Return an event with the tickets that are left now.

        Raises:
            NotFound: there is no such event.
            Unavailable: the store is away.

        """
        event = self._store.get(event_id)
        if event is None:
            raise NotFound("event_not_found", "There is no event with this id.")
        return self._with_availability([event], request_id)[0]

    def page(self, *, page: int, limit: int, request_id: str) -> EventPage:
        """Return page number `page` (from 1) of all events, newest first.

        Raises:
            Unavailable: the store is away.

        """
        events = self._store.page(skip=(page - 1) * limit, limit=limit)
        return EventPage(self._with_availability(events, request_id), self._store.count())

    def _organizer(self, principal: Principal | None) -> str:
        if principal is None and self._policy == "open":
            return ANONYMOUS
        return required(principal).user_id

    def _with_availability(self, events: Sequence[Event], request_id: str) -> list[EventBody]:
        remaining = self._remaining([event.id for event in events], request_id)
        return [EventBody.of(event, remaining.get(event.id)) for event in events]

    def _remaining(self, event_ids: Sequence[str], request_id: str) -> dict[str, int]:
        """Return the tickets left; nothing while booking is away, so that events still show."""
        if not event_ids:
            return {}
        try:
            return self._sales.remaining(event_ids, request_id=request_id)
        except Unavailable as error:
            logger.warning("availability is not known", extra={"code": error.code})
            return {}


def _check_not_passed(draft: EventDraft, now: datetime) -> None:
    passed = [
        FieldError(name, "must not have passed")
        for name, value in (("date", draft.date), ("sales_end", draft.sales_end))
        if value is not None and value <= now
    ]
    if passed:
        raise Invalid(
            "validation_failed", "Some fields are missing or wrong: see errors.", errors=passed
        )


def _event(event_id: str, draft: EventDraft, organizer_id: str, now: datetime) -> Event:
    return Event(
        id=event_id,
        title=draft.title,
        description=draft.description,
        category=draft.category,
        location=draft.location,
        date=draft.date,
        total_tickets=draft.total_tickets,
        price=draft.price,
        sales_start=draft.sales_start,
        sales_end=draft.sales_end,
        max_per_booking=draft.max_per_booking,
        max_per_user=draft.max_per_user,
        status="SCHEDULED",
        organizer_id=organizer_id,
        version=FIRST_VERSION,
        created_at=now,
        updated_at=now,
    )
