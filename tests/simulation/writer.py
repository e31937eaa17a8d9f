"""The batch writer of a task: the shell around `decide`, the queues and the markers.

It follows `booking.writer` and `booking.batch_store` step by step: lock or skip, decide, commit,
read back an unknown commit, bisect a refused batch, put back what was not committed.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import count
from sys import maxsize
from typing import Any, NamedTuple, cast

from booking.decisions import Decisions, busy, decide
from booking.markers import SoldOutMarkers
from booking.models import Accepted, CreateRequest, KnownKey, Outcome, Sale
from booking.queues import EventQueues, QueueFull, Waiting
from tests.simulation.database import (
    UNSTORABLE,
    Away,
    CommitUnknown,
    Database,
    Duplicate,
    Refused,
    Transaction,
)
from tests.simulation.guards import Guard
from tests.simulation.scheduler import Actor, Reply, Steps
from ticketra.errors import Invalid, Refusal, Unavailable

BATCH_LIMIT = 5
EVENT_QUEUE_LIMIT = 5
TOTAL_QUEUE_LIMIT = 8
SKIPS_BEFORE_WAITING = 3
PARK_MS = 5
PAUSE_AFTER_FAILURE_MS = 50
HOLD_TTL = timedelta(seconds=5)

Batch = list[Waiting]


class Locked(NamedTuple):
    """What a batch decides on, and when it was read."""

    sales: dict[str, Sale]
    skipped: frozenset[str]
    known: dict[tuple[str, str], KnownKey]
    held: dict[tuple[str, str], int]
    now: datetime


class Writer:
    """Serves one task's lines of waiting requests."""

    def __init__(self, actor: Actor, database: Database, markers: SoldOutMarkers) -> None:
        self._actor = actor
        self._database = database
        self._markers = markers
        self._scheduler = database.scheduler
        self._queues = EventQueues(EVENT_QUEUE_LIMIT, TOTAL_QUEUE_LIMIT)
        self._arrivals = count()
        self._arrival_of: dict[str, int] = {}
        self._skips: dict[str, int] = {}
        self._waiting_event: str | None = None
        self._wake: Reply[None] = Reply(self._scheduler)

    def __len__(self) -> int:
        """How many requests are in line."""
        return len(self._queues)

    def submit(self, request: CreateRequest, reply: Reply[Outcome], deadline_ms: int) -> None:
        """Put a request in line; it is answered by its deadline unless it is in a batch then."""
        if self._database_is_away():
            reply.set_result(unavailable())
            return
        # The queues only carry the answer, so anything with its two methods will do.
        waiting = Waiting(request, cast("Any", reply), deadline_ms / 1_000)
        try:
            self._queues.add(waiting)
        except QueueFull:
            self._answer(waiting, busy())
            return
        self._scheduler.note(self._actor.name, "queued", request[:5])
        self._arrival_of[request.id] = next(self._arrivals)
        self._scheduler.call_later(
            self._actor, deadline_ms - self._scheduler.now_ms, self._answer_expired
        )
        self._wake.set_result(None)

    def run(self) -> Steps[None]:
        """Serve the queues; never returns."""
        while True:
            yield from self._wake.wait()
            self._wake = Reply(self._scheduler)
            while batch := self._queues.take(BATCH_LIMIT):
                yield from self._commit(batch, wait=False)

    def _commit(self, batch: Batch, *, wait: bool) -> Steps[None]:
        """Run one batch to its end: every request is answered or back in line."""
        undone = yield from self._attempt(batch, trust_fresh=True, wait=wait)
        if undone:
            self._put_back(undone)
            if self._database_is_away():
                self._answer_all(self._queues.take_all(), unavailable())
            yield PAUSE_AFTER_FAILURE_MS
            self._wake.set_result(None)

    def _attempt(self, batch: Batch, *, trust_fresh: bool, wait: bool) -> Steps[Batch]:
        """Answer `batch`, and return those that have to go back in line, in their order."""
        if not batch:
            return []
        try:
            yield from self._transact(batch, trust_fresh=trust_fresh, wait=wait)
        except Refused as error:
            return (yield from self._bisect(batch, error, trust_fresh=trust_fresh, wait=wait))
        except Away:
            return batch
        except CommitUnknown:
            self._answer_all(batch, unavailable())
        return []

    def _transact(self, batch: Batch, *, trust_fresh: bool, wait: bool) -> Steps[None]:
        """Decide and commit `batch`; requests that are set aside are removed from it.

        After a refusal nothing is set aside: Away puts all of it back in line.
        """
        seen_at = self._seconds()
        transaction = self._database.begin(self._actor)
        yield self._step_ms()
        locked = yield from self._read(transaction, batch, trust_fresh=trust_fresh, wait=wait)
        yield self._step_ms()
        if locked.skipped and not trust_fresh and Guard.SPLIT_ORDER not in self._database.off:
            transaction.roll_back()
            raise Away
        if locked.skipped:
            self._set_skipped_aside(batch, locked.skipped)
        decisions = decide(
            [waiting.request for waiting in batch],
            locked.sales,
            locked.known,
            locked.held,
            now=locked.now if locked.sales else datetime.min.replace(tzinfo=UTC),
            hold_ttl=HOLD_TTL if locked.sales else timedelta(),
        )
        if decisions.accepted:
            yield from self._write(transaction, decisions, locked.sales)
        else:
            transaction.roll_back()
            yield self._step_ms()
        self._check_order(batch, locked.sales)
        for waiting, outcome in zip(batch, decisions.outcomes, strict=True):
            self._answer(waiting, outcome)
        self._note_sold_out(locked.sales, decisions, seen_at)

    def _read(
        self, transaction: Transaction, batch: Batch, *, trust_fresh: bool, wait: bool
    ) -> Steps[Locked]:
        database = self._database
        locks = Guard.SALE_LOCK not in database.off
        skipped: list[str] = []
        sales: dict[str, Sale] = {}
        for event_id in sorted({waiting.request.event_id for waiting in batch}):
            if event_id not in database.sales:
                continue
            if locks and wait:
                yield from transaction.lock(event_id)
            elif locks and not transaction.try_lock(event_id):
                skipped.append(event_id)
                continue
            sales[event_id] = database.sales[event_id]
        requests = [waiting.request for waiting in batch]
        known = {} if Guard.KEY_LOOKUP in database.off else self._known(requests, trust_fresh)
        held = {
            (r.event_id, r.user_id): database.held(r.event_id, r.user_id)
            for r in requests
            if r.event_id in sales and sales[r.event_id].max_per_user > 0
        }
        return Locked(sales, frozenset(skipped), known, held, database.now)

    def _known(
        self, requests: Iterable[CreateRequest], trust_fresh: bool
    ) -> dict[tuple[str, str], KnownKey]:
        known = {}
        for request in requests:
            if request.key and not (trust_fresh and request.key_is_fresh):
                found = self._database.known(request.user_id, request.key)
                if found is not None:
                    known[request.user_id, request.key] = found
        return known

    def _write(
        self, transaction: Transaction, decisions: Decisions, sales: dict[str, Sale]
    ) -> Steps[None]:
        for event_id, tickets in decisions.taken.items():
            self._database.invariants.batch_takes(sales[event_id], tickets)
            transaction.take_stock(event_id, tickets)
        for accepted in decisions.accepted:
            transaction.insert(accepted)
            transaction.tell(accepted.booking.id, "booking.created", "PENDING")
        try:
            yield from transaction.commit()
        except CommitUnknown as unknown:
            committed = yield from self._committed(decisions.accepted)
            if committed is None:
                raise
            if not committed:
                raise Away from unknown

    def _committed(self, accepted: list[Accepted]) -> Steps[bool | None]:
        """Read back whether the bookings are there; None if the database is away."""
        database = self._database
        if Guard.READ_BACK in database.off:
            return False
        yield self._step_ms()
        if database.faults.loses_answer():
            return None
        transaction = database.begin(self._actor)
        if Guard.READ_BACK_LOCK not in database.off:
            try:
                for event_id in sorted({one.booking.event_id for one in accepted}):
                    yield from transaction.lock(event_id)
            except Away:
                return None
        found = any(one.booking.id in database.bookings for one in accepted)
        transaction.roll_back()
        return found

    def _bisect(
        self, batch: Batch, error: Refused, *, trust_fresh: bool, wait: bool
    ) -> Steps[Batch]:
        """Find the one request that the database refuses, and refuse only that one.

        Returns those that have to go back in line, because the database went away meanwhile.
        """
        if trust_fresh and any(waiting.request.key_is_fresh for waiting in batch):
            return (yield from self._attempt(batch, trust_fresh=False, wait=wait))
        if len(batch) == 1:
            return (yield from self._refuse(batch[0], error, wait=wait))
        middle = len(batch) // 2
        undone = yield from self._attempt(batch[:middle], trust_fresh=False, wait=wait)
        if undone and Guard.SPLIT_ORDER not in self._database.off:
            return undone + batch[middle:]
        return undone + (yield from self._attempt(batch[middle:], trust_fresh=False, wait=wait))

    def _refuse(self, waiting: Waiting, error: Refused, *, wait: bool) -> Steps[Batch]:
        """Refuse what the database does not take; a key that it knows is looked up once more."""
        looks_again = Guard.SECOND_KEY_LOOKUP not in self._database.off
        if looks_again and isinstance(error, Duplicate) and not waiting.looked_up_again:
            waiting.looked_up_again = True
            return (yield from self._attempt([waiting], trust_fresh=False, wait=wait))
        self._answer(waiting, Invalid("validation_failed", "The booking cannot be stored."))
        return []

    def _note_sold_out(self, sales: dict[str, Sale], decisions: Decisions, seen_at: float) -> None:
        off = self._database.off
        for event_id, sale in sales.items():
            self._skips.pop(event_id, None)
            if sale.remaining == decisions.taken.get(event_id, 0):
                version = maxsize if Guard.MARKER_VERSION in off else sale.stock_version
                stamp = self._seconds() if Guard.MARKER_STAMP in off else seen_at
                self._markers.put(event_id, version, stamp)
                self._scheduler.note(
                    self._actor.name, "marked", event_id, "as sold out in", version
                )

    def _set_skipped_aside(self, batch: Batch, skipped: frozenset[str]) -> None:
        self._put_back([w for w in batch if w.request.event_id in skipped])
        batch[:] = [w for w in batch if w.request.event_id not in skipped]
        for event_id in sorted(skipped):
            self._scheduler.note(self._actor.name, "skipped", event_id)
            self._queues.park(event_id)
            self._unpark_later(event_id)
            self._skips[event_id] = self._skips.get(event_id, 0) + 1
            if self._skips[event_id] >= SKIPS_BEFORE_WAITING and self._waiting_event is None:
                self._waiting_event = event_id
                self._scheduler.start(self._actor, self._serve_waiting(event_id))

    def _serve_waiting(self, event_id: str) -> Steps[None]:
        """Serve one event by waiting for its row, while the others go on."""
        batch = self._queues.take_event(event_id, BATCH_LIMIT)
        yield from self._commit(batch, wait=True)
        self._waiting_event = None
        self._unpark(event_id)

    def _unpark_later(self, event_id: str) -> None:
        self._scheduler.call_later(self._actor, PARK_MS, lambda: self._unpark(event_id))

    def _unpark(self, event_id: str) -> None:
        if event_id != self._waiting_event:
            self._queues.unpark(event_id)
            self._wake.set_result(None)

    def _put_back(self, batch: Batch) -> None:
        if Guard.LINE_ORDER in self._database.off:
            batch = batch[::-1]
        self._queues.put_back(batch)

    def _check_order(self, batch: Batch, sales: Iterable[str]) -> None:
        for event_id in sales:
            arrivals = [
                self._arrival_of[w.request.id] for w in batch if w.request.event_id == event_id
            ]
            self._database.invariants.batch_is_decided(self._actor.name, event_id, arrivals)

    def _answer_expired(self) -> None:
        self._answer_all(self._queues.take_expired(self._scheduler.now_ms / 1_000), busy())

    def _answer_all(self, batch: Batch, refusal: Refusal) -> None:
        for waiting in batch:
            self._answer(waiting, refusal)

    def _answer(self, waiting: Waiting, outcome: Outcome) -> None:
        request, database = waiting.request, self._database
        self._scheduler.note(self._actor.name, "answered", request.id, _in_short(outcome))
        if not isinstance(outcome, Refusal):
            database.invariants.booking_is_acknowledged(outcome.booking, request, database.bookings)
        elif not isinstance(outcome, Unavailable):  # which says that nobody knows
            storable = request.user_id != UNSTORABLE
            database.invariants.request_is_refused(request, outcome.code, storable=storable)
        if not waiting.answer.done():
            waiting.answer.set_result(outcome)

    def _database_is_away(self) -> bool:
        return self._database.faults.database_is_away(self._scheduler.now_ms)

    def _step_ms(self) -> int:
        return self._database.faults.step_ms(self._actor)

    def _seconds(self) -> float:
        return self._scheduler.now_ms / 1_000


def _in_short(outcome: Outcome) -> str:
    return outcome.code if isinstance(outcome, Refusal) else outcome.booking.id


def unavailable() -> Unavailable:
    """Return the answer of a task that cannot say what became of a request."""
    return Unavailable("unavailable", "The database is away: try again.", retry_after_s=1)
