"""The sweeper of a task: gives back the tickets of bookings whose hold has ended."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from booking import transitions
from booking.models import PENDING, Booking, Sale
from tests.simulation.database import Away, CommitUnknown, Database, Transaction
from tests.simulation.guards import Guard
from tests.simulation.scheduler import Actor, Steps
from tests.simulation.writer import HOLD_TTL

INTERVAL_LIMIT_MS = 1_500
BATCH_LIMIT = 3
HOLD_MAX = timedelta(seconds=20)


class Sweeper:
    """Follows `booking.holds`: locked sales are passed over first, and then waited for.

    `skew` is how far the clock of its own task is off, which must not matter.
    """

    def __init__(self, actor: Actor, database: Database, skew: timedelta) -> None:
        self._actor = actor
        self._database = database
        self._faults = database.faults
        self._skew = skew

    def run(self) -> Steps[None]:
        """Sweep again and again; never returns."""
        while True:
            yield self._faults.up_to(INTERVAL_LIMIT_MS)
            try:
                for event_id in (yield from self._sweep(self._due())):
                    yield from self._sweep(self._due(event_id), wait=True)
            except (Away, CommitUnknown):
                continue

    def _due(self, event_id: str | None = None) -> list[Booking]:
        now = self._now()
        bookings = self._database.bookings.values()
        due = [b for b in bookings if _is_due(b, now) and event_id in {None, b.event_id}]
        return due[:BATCH_LIMIT]

    def _sweep(self, due: list[Booking], *, wait: bool = False) -> Steps[list[str]]:
        """End or extend the holds of `due` bookings; return the events that others have locked."""
        if not due:
            return []
        database = self._database
        transaction = database.begin(self._actor)
        yield self._faults.step_ms(self._actor)
        event_ids = sorted({booking.event_id for booking in due})
        sales: dict[str, Sale] = {}
        for event_id in event_ids:
            if wait:
                yield from transaction.lock(event_id)
            if transaction.try_lock(event_id):
                sales[event_id] = database.sales[event_id]
        yield self._faults.step_ms(self._actor)
        now = self._now()
        bookings = self._locked(transaction, (b for b in due if b.event_id in sales), now)
        unpublished = self._unpublished()
        yield self._faults.step_ms(self._actor)
        for booking in bookings:
            if booking.created_at + HOLD_MAX > now and booking.id in unpublished:
                self._extend(transaction, booking, now)
            else:
                self._expire(transaction, booking, sales[booking.event_id], now)
        yield from transaction.commit()
        return [event_id for event_id in event_ids if event_id not in sales]

    def _locked(
        self, transaction: Transaction, due: Iterable[Booking], now: datetime
    ) -> list[Booking]:
        """Return those bookings that are still due and that nobody else has locked."""
        if Guard.STATE_CONDITION in self._database.off:
            return list(due)
        present = [self._database.bookings[booking.id] for booking in due]
        return [b for b in present if _is_due(b, now) and transaction.try_lock(b.id)]

    def _unpublished(self) -> set[str]:
        return {
            message.subject
            for message in self._database.outbox
            if not message.published and message.routing_key == "booking.created"
        }

    def _extend(self, transaction: Transaction, booking: Booking, now: datetime) -> None:
        until = min(now + HOLD_TTL, booking.created_at + HOLD_MAX)
        transaction.change(booking, booking._replace(hold_expires_at=until, updated_at=now))

    def _expire(
        self, transaction: Transaction, booking: Booking, sale: Sale, now: datetime
    ) -> None:
        transition = transitions.expire(booking)
        changed = transition.apply(booking, now)
        transaction.change(booking, changed)
        transaction.give_back(sale, transition.stock_delta)
        transaction.tell_of(changed, transition)

    def _now(self) -> datetime:
        off = Guard.HOLD_CLOCK in self._database.off
        return self._database.now + (self._skew if off else timedelta())


def _is_due(booking: Booking, now: datetime) -> bool:
    return booking.status == PENDING and booking.hold_expires_at <= now
