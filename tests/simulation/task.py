"""A booking task: its calls and its processes, all of one actor that may die.

The calls follow `booking.bookings` and the stores step by step, around the pure decisions.
"""

from collections.abc import Callable
from datetime import timedelta

from booking import sales, transitions
from booking.bookings import request_hash
from booking.decisions import busy, event_not_found, sold_out
from booking.markers import SoldOutMarkers
from booking.models import (
    EXPIRED,
    Booking,
    CreateRequest,
    Outcome,
    Sale,
    SaleTerms,
    Transition,
)
from tests.simulation.broker import Broker
from tests.simulation.closer import Closer
from tests.simulation.database import Away, CommitUnknown, Database, StateChanged
from tests.simulation.guards import Guard
from tests.simulation.relay import Relay
from tests.simulation.scheduler import Actor, Reply, Steps
from tests.simulation.sweeper import HOLD_MAX, Sweeper
from tests.simulation.writer import HOLD_TTL, Writer, unavailable
from ticketra.errors import NotFound, Refusal
from ticketra.ids import IdSource

CALL_WAIT_MS = 3_000
STATE_CHANGE_ATTEMPTS = 3
REFUNDED_AFTER = frozenset({"tickets_gone", "booking_cancelled"})

Decision = Callable[[Booking, Sale | None, int], Transition | None]


class Task:
    """One booking task, from its start to its death."""

    def __init__(
        self, actor: Actor, database: Database, broker: Broker, mint_id: IdSource, skew_s: int
    ) -> None:
        self.actor = actor
        self._database = database
        self._mint_id = mint_id
        self._scheduler = database.scheduler
        self._faults = database.faults
        self._markers = SoldOutMarkers(lambda: self._scheduler.now_ms / 1_000)
        self._heard: dict[str, int] = {}
        self._writer = Writer(actor, database, self._markers)
        self._relay = Relay(actor, database, broker)
        sweeper = Sweeper(actor, database, timedelta(seconds=skew_s))
        closer = Closer(actor, database)
        for process in (self._writer.run(), sweeper.run(), closer.run(), self._relay.run()):
            self._scheduler.start(actor, process)

    @property
    def waiting(self) -> int:
        """How many requests are in line."""
        return len(self._writer)

    def hear(self, event_id: str, stock_version: int) -> None:
        """A sale has tickets again."""
        self._heard[event_id] = max(stock_version, self._heard.get(event_id, -1))
        self._markers.reopen(event_id, stock_version)
        self._scheduler.note(self.actor.name, "heard of", event_id, "in", stock_version)

    def wake_relay(self) -> None:
        """Something was committed that the world has to be told."""
        self._relay.wake()

    def create(
        self,
        event_id: str,
        user_id: str,
        ticket_count: int,
        key: str,
        *,
        key_is_fresh: bool,
        reply: Reply[Outcome],
    ) -> None:
        """Hold tickets."""
        database = self._database
        if (not key or key_is_fresh) and self._markers.is_sold_out(event_id):
            self._scheduler.note(self.actor.name, "has a sold-out marker of", event_id)
            database.invariants.marker_says_sold_out(
                database.sales[event_id], self._heard.get(event_id, -1), self._scheduler.now_ms
            )
            reply.set_result(sold_out())
            return
        request = CreateRequest(
            self._mint_id(),
            event_id,
            user_id,
            ticket_count,
            key,
            key_is_fresh,
            request_hash(event_id, ticket_count),
            "",
        )
        self._writer.submit(request, reply, self._scheduler.now_ms + CALL_WAIT_MS)

    def cancel(self, booking_id: str, reply: Reply[Booking | Refusal]) -> None:
        """Give the tickets of a booking back at the buyer's wish."""
        self._give_back(
            booking_id, lambda present, *_: transitions.cancel(present, "no time"), reply
        )

    def decline(self, booking_id: str, reply: Reply[Booking | Refusal]) -> None:
        """Give the tickets of a booking back whose payment was declined."""
        self._give_back(
            booking_id,
            lambda present, *_: transitions.decline(present, "declined"),
            reply,
        )

    def confirm(self, booking_id: str, reply: Reply[Booking | Refusal]) -> None:
        """Sell the tickets of a paid booking."""

        def call() -> Steps[None]:
            answer = yield from self._change(booking_id, transitions.confirm, lock_sale=False)
            if isinstance(answer, Refusal) and answer.code in REFUNDED_AFTER:
                self._database.invariants.confirmation_is_refused(booking_id)
            reply.set_result(answer)

        self._start_call(call())

    def record_refund(self, booking_id: str, reply: Reply[Booking | Refusal]) -> None:
        """Note that the money of an ended booking went back."""

        def call() -> Steps[None]:
            answer = yield from self._change(
                booking_id, lambda present, *_: transitions.refund(present), lock_sale=False
            )
            reply.set_result(answer)

        self._start_call(call())

    def extend_hold(self, booking_id: str, reply: Reply[Booking | Refusal]) -> None:
        """Hold the tickets of a booking for longer, because its payment is in flight."""

        def call() -> Steps[None]:
            try:
                answer = yield from self._extend(booking_id)
            except (Away, CommitUnknown):
                answer = unavailable()
            reply.set_result(answer)

        self._start_call(call())

    def put_sale(
        self, event_id: str, version: int, terms: SaleTerms, reply: Reply[Sale | Refusal]
    ) -> None:
        """Open a sale or change its terms."""

        def decision(sale: Sale | None) -> Sale | None:
            if sale is not None:
                return sales.change_terms(sale, version, terms)
            return Sale(
                event_id,
                version,
                terms.capacity,
                terms.capacity,
                *terms[1:],
                closed=False,
                stock_version=0,
            )

        self._start_call(self._change_sale(event_id, decision, reply))

    def close_sale(self, event_id: str, version: int, reply: Reply[Sale | Refusal]) -> None:
        """End a sale."""

        def decision(sale: Sale | None) -> Sale | None:
            if sale is None:
                raise event_not_found()
            return sales.close(sale, version)

        self._start_call(self._change_sale(event_id, decision, reply))

    def _start_call(self, steps: Steps[None]) -> None:
        self._scheduler.start(self.actor, steps)

    def _give_back(
        self,
        booking_id: str,
        decision: Decision,
        reply: Reply[Booking | Refusal],
    ) -> None:
        def call() -> Steps[None]:
            answer = yield from self._change(booking_id, decision, lock_sale=True)
            reply.set_result(answer)

        self._start_call(call())

    def _change(
        self, booking_id: str, decision: Decision, *, lock_sale: bool
    ) -> Steps[Booking | Refusal]:
        """As `Bookings._change`: again where the sale has to be locked or the state has changed."""
        yield self._step_ms()
        found = self._database.bookings.get(booking_id)
        if found is None:
            return not_found()
        lock_sale = lock_sale or found.status == EXPIRED
        for _ in range(STATE_CHANGE_ATTEMPTS):
            try:
                return (yield from self._apply(found, decision, lock_sale=lock_sale))
            except transitions.SaleNeeded:
                lock_sale = True
            except StateChanged:
                continue
            except (Away, CommitUnknown):
                return unavailable()
            except Refusal as refusal:
                return refusal
        return busy()

    def _apply(
        self, found: Booking, decision: Decision, *, lock_sale: bool
    ) -> Steps[Booking | Refusal]:
        database = self._database
        transaction = database.begin(self.actor)
        sale = None
        if lock_sale:
            yield from transaction.lock(found.event_id)
            sale = database.sales[found.event_id]
            yield self._step_ms()
        if Guard.STATE_CONDITION not in database.off:
            yield from transaction.lock(found.id)
            found = database.bookings[found.id]
        yield self._step_ms()
        held = yield from self._held_beside(found, sale)
        try:
            transition = decision(found, sale, held)
        except (transitions.SaleNeeded, Refusal):
            transaction.roll_back()
            raise
        if transition is None:
            transaction.roll_back()
            return found
        if transition.refusal is not None and Guard.LATE_PAYMENT_NOTED in database.off:
            transaction.roll_back()
            return found
        changed = transition.apply(found, database.now)
        transaction.change(found, changed)
        if transition.stock_delta and sale is not None:
            transaction.give_back(sale, transition.stock_delta)
        transaction.tell_of(changed, transition)
        yield from transaction.commit()
        return transition.refusal or changed

    def _extend(self, booking_id: str) -> Steps[Booking | Refusal]:
        database = self._database
        yield self._step_ms()
        if booking_id not in database.bookings:
            return not_found()
        transaction = database.begin(self.actor)
        now = database.now
        yield from transaction.lock(booking_id)
        present = database.bookings[booking_id]
        yield self._step_ms()
        until = transitions.extended_hold(present, now, hold_ttl=HOLD_TTL, hold_max=HOLD_MAX)
        if until is None:
            transaction.roll_back()
            return present
        extended = present._replace(hold_expires_at=until, updated_at=now)
        transaction.change(present, extended)
        yield from transaction.commit()
        return extended

    def _held_beside(self, booking: Booking, sale: Sale | None) -> Steps[int]:
        """Read what the user of an EXPIRED booking holds, if the locked sale limits that."""
        if sale is None or sale.max_per_user == 0 or booking.status != EXPIRED:
            return 0
        held = self._database.held(booking.event_id, booking.user_id)
        yield self._step_ms()
        return 0 if Guard.LATE_PAYMENT_LIMIT in self._database.off else held

    def _change_sale(
        self,
        event_id: str,
        decision: Callable[[Sale | None], Sale | None],
        reply: Reply[Sale | Refusal],
    ) -> Steps[None]:
        database = self._database
        transaction = database.begin(self.actor)
        try:
            yield from transaction.lock(event_id)
            yield self._step_ms()
            present = database.sales.get(event_id)
            changed = decision(present)
            if changed is None:
                transaction.roll_back()
                assert present is not None
                reply.set_result(present)
                return
            transaction.put_sale(changed)
            if changed.closed:
                transaction.tell(event_id, "sale.closed")
            yield from transaction.commit()
            reply.set_result(changed)
        except (Away, CommitUnknown):
            reply.set_result(unavailable())
        except Refusal as refusal:
            transaction.roll_back()
            reply.set_result(refusal)

    def _step_ms(self) -> int:
        return self._faults.step_ms(self.actor)


def not_found() -> NotFound:
    """Return the refusal of a booking that is not there."""
    return NotFound("booking_not_found", "There is no such booking: check its id.")
