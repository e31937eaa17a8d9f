"""Creating and showing events. Decides; the store and the sales only keep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256

from event.listing import ListQuery, Position, Total, position_of
from event.models import CreationKey, Event, EventBody, EventDraft, in_milliseconds
from event.ports import EventStore, Sales
from ticketra.auth import AccessPolicy, required
from ticketra.errors import FieldError, Invalid, NotFound, Unavailable
from ticketra.ids import Clock
from ticketra.log import logger
from ticketra.tokens import Principal

ANONYMOUS = "anonymous"
FIRST_VERSION = 1


@dataclass(frozen=True, slots=True)
class Shown:
    """An event's body and its version. `replayed`: an earlier request with the same key made it."""

    body: EventBody
    version: int
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class EventPage:
    """One page of events. `next` is where to go on; None on the last page."""

    events: list[EventBody]
    total: Total | None
    next: Position | None


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
        self._policy: AccessPolicy = policy
        self._clock = clock
        self._new_id = new_id

    def create(
        self,
        draft: EventDraft,
        principal: Principal | None,
        *,
        idempotency_key: str | None = None,
        request_id: str,
    ) -> Shown:
        """Put an event on sale for its organizer.

        The sale comes first: an event that can be seen can always be booked. If keeping the event
        then fails, what is left behind is a sale under an id that nobody knows; with a key, that id
        was kept first, and a repeated request finishes what the first one began.

        Raises:
            Unauthenticated: the policy asks for a token.
            Invalid: the event or the end of its sale has passed (strict policy), or the key was
                used with another body.
            Unavailable: the booking service or the store is away.

        """
        organizer_id = self._organizer(principal)
        key = self._key(idempotency_key, draft, organizer_id)
        event = _event(key.event_id, draft, organizer_id, key.created_at)
        if idempotency_key is not None and self._store.get(event.id) is not None:
            kept = False
        else:
            self._sales.put(on_terms(event, self._policy), request_id=request_id)
            kept = self._store.insert(event)
        # Nobody could book before the event was kept, so that this is also what the first answer
        # to the key said.
        body = EventBody.of(on_terms(event, self._policy), event.total_tickets)
        return Shown(body, event.version, replayed=not kept)

    def get(self, event_id: str, *, request_id: str) -> Shown:
        """Return an event with the tickets that are left now.

        Raises:
            NotFound: there is no such event.
            Unavailable: the store is away.

        """
        return self.shown(self.event(event_id), request_id=request_id)

    def event(self, event_id: str) -> Event:
        """Return an event as it is kept; raises as `get` does."""
        event = self._store.get(event_id)
        if event is None:
            raise not_found()
        return event

    def shown(self, event: Event, *, request_id: str) -> Shown:
        """Return `event` with the tickets that are left now."""
        return Shown(self._with_availability([event], request_id)[0], event.version)

    def page(self, query: ListQuery, *, request_id: str) -> EventPage:
        """Return the page of events that `query` asks for.

        Raises:
            Unavailable: the store is away, or takes too long to find these.

        """
        listing = self._store.page(query)
        bodies = self._with_availability(listing.events, request_id)
        goes_on_at = position_of(listing.events[-1], query.sort) if listing.more else None
        return EventPage(bodies, listing.total, goes_on_at)

    def _organizer(self, principal: Principal | None) -> str:
        if principal is None and self._policy == "open":
            return ANONYMOUS
        return required(principal).user_id

    def _key(self, sent: str | None, draft: EventDraft, organizer_id: str) -> CreationKey:
        """Return the key to create an event under; without one that was sent it is kept nowhere."""
        fresh = CreationKey(
            id=_digest(f"{organizer_id}\n{sent}"),
            body_hash=_digest(draft.model_dump_json()),
            event_id=self._new_id(),
            created_at=in_milliseconds(self._clock()),
        )
        known = None if sent is None else self._store.key(fresh.id)
        if known is None:
            if self._policy == "strict":
                check_not_passed(draft, fresh.created_at)
            known = fresh if sent is None else self._store.claim_key(fresh)
        if known.body_hash != fresh.body_hash:
            raise Invalid(
                "idempotency_mismatch",
                "This Idempotency-Key was used with another body: send a new key.",
            )
        return known

    def _with_availability(self, events: Sequence[Event], request_id: str) -> list[EventBody]:
        on_sale = [event.id for event in events if event.status == "SCHEDULED"]
        remaining = self._remaining(on_sale, request_id)
        return [
            EventBody.of(
                on_terms(event, self._policy),
                remaining.get(event.id) if event.status == "SCHEDULED" else 0,
            )
            for event in events
        ]

    def _remaining(self, event_ids: Sequence[str], request_id: str) -> dict[str, int]:
        """Return the tickets left; nothing while booking is away, so that events still show."""
        if not event_ids:
            return {}
        try:
            return self._sales.remaining(event_ids, request_id=request_id)
        except Unavailable as error:
            logger.warning("availability is not known", extra={"code": error.code})
            return {}


def on_terms(event: Event, policy: AccessPolicy) -> Event:
    """Return `event` with the end of its sale: under the strict policy its date, if nothing else.

    What was left open stays open in the store, so that it moves along when the date does.
    """
    if policy == "strict" and event.sales_end is None:
        return replace(event, sales_end=event.date)
    return event


def not_found() -> NotFound:
    """Return the refusal of an id that no event has."""
    return NotFound("event_not_found", "There is no event with this id.")


def check_not_passed(draft: EventDraft, now: datetime, *, but: Sequence[str] = ()) -> None:
    """Refuse times that have passed, leaving out the fields named in `but`.

    Raises:
        Invalid: naming each of them.

    """
    passed = [
        FieldError(name, "must not have passed")
        for name, value in (("date", draft.date), ("sales_end", draft.sales_end))
        if name not in but and value is not None and value <= now
    ]
    if passed:
        raise invalid(passed)


def invalid(errors: Sequence[FieldError]) -> Invalid:
    """Return the refusal of a body with wrong fields."""
    return Invalid(
        "validation_failed", "Some fields are missing or wrong: see errors.", errors=errors
    )


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


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
