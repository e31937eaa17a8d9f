"""Changing and cancelling events: what its owner may do, and how document and sale stay together.

An event lies in two places: its document, and its sale in the booking service. A change of both is
prepared in the document, then made in the sale, and then finished in the document:

1. `prepare` notes the whole new event under a version that was never used. It is conditional on the
   version that was read and on nothing being prepared, so that of all changes at once one goes on.
2. The sale gets the new terms, or is closed, under that version. Repeating that changes nothing.
3. `finish` makes the event what was prepared. If the sale was refused, `give_up` forgets it.

Whoever meets a change that was prepared and not finished, after a crash or beside its maker, makes
steps 2 and 3 for it first. So a change that was prepared happens, or its sale refused it.
"""

from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from event.etags import allows_change
from event.logic import check_not_passed, invalid, not_found, on_terms
from event.models import Event, EventDraft, EventPatch, KeptEvent, in_milliseconds
from event.ports import EventStore, Sales
from ticketra.auth import AccessPolicy, required
from ticketra.errors import (
    Busy,
    Conflict,
    FieldError,
    Forbidden,
    PreconditionFailed,
    PreconditionRequired,
    Refusal,
    Unavailable,
)
from ticketra.ids import Clock
from ticketra.tokens import Principal

ATTEMPTS_LIMIT = 5
RETRY_AFTER_S = 1
FIELD_ERRORS_LIMIT = 20

_DRAFT_FIELDS = set(EventDraft.model_fields)


class Changes:
    """What the owner of an event, or an admin, may do with it."""

    def __init__(
        self, store: EventStore, sales: Sales, *, policy: AccessPolicy, clock: Clock
    ) -> None:
        self._store = store
        self._sales = sales
        self._policy: AccessPolicy = policy
        self._clock = clock

    def patch(
        self,
        event_id: str,
        patch: EventPatch,
        principal: Principal | None,
        *,
        if_match: str | None,
        request_id: str,
    ) -> Event:
        """Change an event that is as the caller knows it, and return it.

        Repeating a request whose answer was lost is safe: if its change was prepared, it is
        finished and answered; if it was finished, the version has moved on.

        Raises:
            Unauthenticated, NotFound, Forbidden: see `_owned`.
            PreconditionRequired, PreconditionFailed: If-Match is missing or names another version.
            Conflict: the event is cancelled, or the sale refuses the terms.
            Invalid: what comes out is not a valid event.
            Busy: others change it all the time.
            Unavailable: the booking service or the store is away.

        """
        for _ in range(ATTEMPTS_LIMIT):
            known = self._owned(event_id, principal)
            _check_precondition(if_match, known.event.version)
            changed = self._patched(known, patch)
            if known.prepared is None:
                made = self._make(known, changed, request_id)
            else:
                made = self._finish_begun(known, changed, request_id)
            if made is not None:
                return made
        raise _busy()

    def cancel(
        self,
        event_id: str,
        principal: Principal | None,
        *,
        if_match: str | None,
        request_id: str,
    ) -> None:
        """Cancel an event; what is cancelled stays so, whatever If-Match says.

        Its sale is closed first, and the booking service then tells of that, which cancels the
        bookings. Raises as `patch` does, but needs no If-Match.
        """
        for _ in range(ATTEMPTS_LIMIT):
            known = self._owned(event_id, principal)
            if known.event.status == "CANCELLED":
                return
            if if_match is not None:
                _check_precondition(if_match, known.event.version)
            changed = replace(known.event, status="CANCELLED", **self._next(known))
            if known.prepared is None:
                made = self._through_sale(known, changed, request_id)
            else:
                made = self._finish_begun(known, changed, request_id)
            if made is not None:
                return
        raise _busy()

    def _owned(self, event_id: str, principal: Principal | None) -> KeptEvent:
        """Return an event that the caller may change.

        Raises:
            Unauthenticated: the caller is anonymous; no policy lets them change anything.
            NotFound: there is no such event.
            Forbidden: it is another person's.

        """
        caller = required(principal)
        known = self._store.load(event_id)
        if known is None:
            raise not_found()
        if caller.role != "admin" and known.event.organizer_id != caller.user_id:
            raise Forbidden("not_your_event", "Only the event's organizer may change it.")
        return known

    def _patched(self, known: KeptEvent, patch: EventPatch) -> Event:
        event = known.event
        if event.status == "CANCELLED":
            raise Conflict("event_cancelled", "The event is cancelled and cannot be changed.")
        draft = _merged(event, patch)
        if self._policy == "strict":
            unchanged = {"date", "sales_end"} - patch.model_fields_set
            check_not_passed(draft, self._clock(), but=sorted(unchanged))
        fields = {name: getattr(draft, name) for name in _DRAFT_FIELDS}
        changed = replace(event, **fields)
        return event if changed == event else replace(changed, **self._next(known))

    def _next(self, known: KeptEvent) -> dict[str, Any]:
        return {"version": known.next_version, "updated_at": in_milliseconds(self._clock())}

    def _make(self, known: KeptEvent, changed: Event, request_id: str) -> Event | None:
        """Make a change; None: the event is not as it was known, so look again."""
        if changed == known.event:
            return changed
        sale_is_known = known.sale_version <= known.event.version
        if sale_is_known and self._terms(changed) == self._terms(known.event):
            return changed if self._store.replace(known, changed) else None
        return self._through_sale(known, changed, request_id)

    def _through_sale(self, known: KeptEvent, changed: Event, request_id: str) -> Event | None:
        if not self._store.prepare(known, changed):
            return None
        return self._settle(changed, request_id)

    def _finish_begun(self, known: KeptEvent, wanted: Event, request_id: str) -> Event | None:
        """Finish a change that was begun; return the event if it is the one that is wanted."""
        begun = known.prepared
        assert begun is not None
        same = replace(begun, version=wanted.version, updated_at=wanted.updated_at) == wanted
        try:
            finished = self._settle(begun, request_id)
        except Refusal as error:
            if same or isinstance(error, Unavailable):
                raise
            return None  # it is given up or overtaken, and out of the way
        return finished if same else None

    def _settle(self, prepared: Event, request_id: str) -> Event | None:
        """Make in the sale what was prepared, and finish it; None: look again at the event."""
        version = prepared.version
        try:
            at_version = self._move_sale(prepared, request_id)
        except Unavailable:
            raise  # it may have happened: whoever comes next finishes it
        except Refusal:
            self._store.give_up(prepared.id, version, sale_version=version)
            raise
        if at_version > version:
            # Somebody went on from here; or the document is an old copy, which has to catch up.
            self._store.give_up(prepared.id, version, sale_version=at_version)
            return None
        finished = self._store.finish(prepared.id, version)
        if finished is not None:
            return finished
        known = self._store.load(prepared.id)
        if known is not None and known.event.version == version:
            return known.event  # somebody else finished it
        raise _changed_meanwhile()

    def _move_sale(self, prepared: Event, request_id: str) -> int:
        """Put the sale on what was prepared, and return the version that it is at."""
        if prepared.status == "SCHEDULED":
            return self._sales.put(on_terms(prepared, self._policy), request_id=request_id).version
        sale = self._sales.close(prepared, request_id=request_id)
        if sale is None or sale.closed:
            return prepared.version
        return sale.version

    def _terms(self, event: Event) -> tuple[object, ...]:
        terms = on_terms(event, self._policy)
        return (
            terms.total_tickets,
            terms.price,
            terms.sales_start,
            terms.sales_end,
            terms.max_per_booking,
            terms.max_per_user,
        )


def _merged(event: Event, patch: EventPatch) -> EventDraft:
    """Return what `event` would be created from after the merge patch (RFC 7396)."""
    present = EventDraft.model_construct(
        **{name: getattr(event, name) for name in _DRAFT_FIELDS}
    ).model_dump(mode="json")
    merged = _merge(present, patch.model_dump(mode="json", exclude_unset=True))
    try:
        return EventDraft.model_validate(merged)
    except ValidationError as error:
        raise invalid(
            [
                FieldError(
                    ".".join(map(str, found["loc"])) or "body",
                    found["msg"].removeprefix("Value error, "),
                )
                for found in error.errors()[:FIELD_ERRORS_LIMIT]
            ]
        ) from None


def _merge(target: dict[str, object], patch: dict[str, object]) -> dict[str, object]:
    merged = dict(target)
    for name, value in patch.items():
        if isinstance(value, dict):
            inner = merged.get(name)
            merged[name] = _merge(inner if isinstance(inner, dict) else {}, value)
        elif value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return merged


def _check_precondition(if_match: str | None, version: int) -> None:
    if if_match is None:
        raise PreconditionRequired(
            "precondition_required", "Send the ETag of the event that you know as If-Match."
        )
    if not allows_change(if_match, version):
        raise _changed_meanwhile()


def _changed_meanwhile() -> PreconditionFailed:
    return PreconditionFailed(
        "precondition_failed", "The event has changed since: read it again, then change it."
    )


def _busy() -> Busy:
    return Busy("event_busy", "Event is busy, try again.", retry_after_s=RETRY_AFTER_S)
