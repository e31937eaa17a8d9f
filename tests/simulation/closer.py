"""The closer of a task: ends the bookings of closed sales, batch by batch, until none is left."""

from booking import transitions
from booking.models import Booking
from tests.simulation.database import Away, CommitUnknown, Database, Transaction
from tests.simulation.guards import Guard
from tests.simulation.invariants import HOLDING
from tests.simulation.scheduler import Actor, Steps

INTERVAL_LIMIT_MS = 1_500
BATCH_LIMIT = 2


class Closer:
    """Follows `booking.closing`: what is left to do is read from the sales themselves."""

    def __init__(self, actor: Actor, database: Database) -> None:
        self._actor = actor
        self._database = database
        self._faults = database.faults

    def run(self) -> Steps[None]:
        """Look for closed sales again and again; never returns."""
        while True:
            yield self._faults.up_to(INTERVAL_LIMIT_MS)
            for event_id in self._closing():
                try:
                    yield from self._end_some(event_id)
                except (Away, CommitUnknown):
                    break

    def _closing(self) -> list[str]:
        sales, ended = self._database.sales, self._database.bookings_ended
        return [
            sale.event_id for sale in sales.values() if sale.closed and sale.event_id not in ended
        ]

    def _end_some(self, event_id: str) -> Steps[None]:
        """End a batch of a closed event's bookings, and note it when none is left."""
        database = self._database
        transaction = database.begin(self._actor)
        yield from transaction.lock(event_id)
        yield self._faults.step_ms(self._actor)
        found = self._holding(event_id)
        locked = yield from self._locked(transaction, found)
        yield self._faults.step_ms(self._actor)
        for booking in locked:
            self._end(transaction, booking)
        if len(found) < BATCH_LIMIT or Guard.CLOSING_GOES_ON in database.off:
            transaction.mark_bookings_ended(event_id)
        yield from transaction.commit()

    def _holding(self, event_id: str) -> list[str]:
        bookings = self._database.bookings.values()
        holding = [b.id for b in bookings if b.event_id == event_id and b.status in HOLDING]
        return holding[:BATCH_LIMIT]

    def _locked(self, transaction: Transaction, found: list[str]) -> Steps[list[Booking]]:
        """Wait for the rows, and return those bookings that still hold tickets."""
        bookings = self._database.bookings
        if Guard.STATE_CONDITION in self._database.off:
            return [bookings[booking_id] for booking_id in found]
        for booking_id in sorted(found):
            yield from transaction.lock(booking_id)
        return [bookings[one] for one in sorted(found) if bookings[one].status in HOLDING]

    def _end(self, transaction: Transaction, booking: Booking) -> None:
        transition = transitions.cancel(booking, transitions.EVENT_CANCELLED)
        if transition is None:
            return
        database = self._database
        changed = transition.apply(booking, database.now)
        transaction.change(booking, changed)
        transaction.give_back(database.sales[booking.event_id], transition.stock_delta)
        transaction.tell_of(changed, transition)
        database.invariants.seen["booking ended with its sale"] += 1
