"""The group-commit writer: one transaction for all requests that wait.

While one batch commits, the next one grows by itself; a lone request never waits for company. An
event whose sale row is locked by somebody else never holds the others up: it is set aside, and if
that happens often, its batch waits for the row on a connection of its own.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Protocol

import psycopg

from booking.batch_store import BatchStore, CommitUnknown, Locked
from booking.decisions import Decisions, busy, decide
from booking.lock import CONTENDED
from booking.markers import SoldOutMarkers
from booking.models import CreateRequest, Outcome, Sale
from booking.queues import EventQueues, QueueFull, Waiting
from ticketra.database import Database, unavailable
from ticketra.errors import Invalid, Refusal
from ticketra.log import logger
from ticketra.postgres_away import AWAY

BATCH_LIMIT = 500
LOGGED_IDS_LIMIT = 20
# A batch of this size shows that requests come faster than commits; the next one then begins no
# sooner than PACE_S after it began, because a large batch costs less for each booking.
PACED_BATCH = 4
PACE_S = 0.004
SKIPS_BEFORE_WAITING = 3
PARK_S = 0.005  # after a skipped row
PARK_LOCKED_S = 0.1  # when the Redis lock is taken and its release is not announced
PARK_YIELD_S = 0.02  # after a release that somebody waited for
CONTENDED_TTL_S = 1.0
EXPIRY_INTERVAL_S = 0.05
PAUSE_AFTER_FAILURE_S = 0.05


class Locks(Protocol):
    """What the writer needs of the distributed lock."""

    async def acquire(self, event_ids: Iterable[str]) -> set[str]: ...  # noqa: D102
    async def release(self, event_ids: Iterable[str]) -> set[str]: ...  # noqa: D102
    async def signal(self, kind: str, subject: str = "") -> None: ...  # noqa: D102


class Writer:
    """Queues requests, commits them in batches, and answers each after its commit."""

    def __init__(
        self,
        database: Database,
        store: BatchStore,
        waiting_store: BatchStore,
        lock: Locks,
        markers: SoldOutMarkers,
        *,
        hold_ttl: timedelta,
        on_commit: Callable[[], None],
    ) -> None:
        self._database = database
        self._store = store
        self._waiting_store = waiting_store
        self._lock = lock
        self._markers = markers
        self._hold_ttl = hold_ttl
        self._on_commit = on_commit
        self._queues = EventQueues()
        self._wake = asyncio.Event()
        self._contended_until: dict[str, float] = {}
        self._skips: dict[str, int] = {}
        self._in_batch = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._waiting_event: str | None = None  # served on the waiting connection at this moment

    async def submit(self, request: CreateRequest, wait_s: float) -> Outcome:
        """Return what becomes of `request`, after at most about `wait_s` in line.

        Raises:
            Busy: `event_busy`, the line is full.
            Unavailable: PostgreSQL is away.

        """
        if not self._database.available:
            raise unavailable()
        waiting = Waiting(request, self._loop.create_future(), self._loop.time() + wait_s)
        try:
            self._queues.add(waiting)
        except QueueFull:
            raise busy() from None
        self._wake.set()
        return await waiting.answer

    async def run(self) -> None:
        """Serve the queues; never returns."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._queues.take(BATCH_LIMIT):
                next_at = self._loop.time() + PACE_S
                count = len(batch)
                await self._serve(batch)
                if count >= PACED_BATCH:
                    await asyncio.sleep(next_at - self._loop.time())

    async def run_expiry(self) -> None:
        """Answer requests whose time in line is over, and all of them while PostgreSQL is away."""
        while True:
            await asyncio.sleep(EXPIRY_INTERVAL_S)
            if not self._database.available:
                _answer_all(self._queues.take_all(), unavailable())
            _answer_all(self._queues.take_expired(self._loop.time()), busy())
            self._forget_old_contention()

    async def drained(self) -> None:
        """Return when no request waits any more and none is in a batch."""
        while len(self._queues) or self._in_batch:  # noqa: ASYNC110 - asked once in a task's life
            await asyncio.sleep(EXPIRY_INTERVAL_S)

    def mark_contended(self, event_id: str) -> None:
        """Use the Redis lock for an event whose row several tasks want."""
        self._contended_until[event_id] = self._loop.time() + CONTENDED_TTL_S

    def unpark(self, event_id: str) -> None:
        """Serve the line of an event again, unless its earlier requests are being served."""
        if event_id != self._waiting_event:
            self._queues.unpark(event_id)
            self._wake.set()

    async def _serve(self, batch: list[Waiting]) -> None:
        batch = [waiting for waiting in batch if not waiting.answer.done()]
        contended = {w.request.event_id for w in batch} & self._contended_until.keys()
        if not contended:
            await self._commit(self._store, batch)
            return
        refused = await self._lock.acquire(contended)
        self._put_back(batch, refused, PARK_LOCKED_S)
        try:
            await self._commit(self._store, batch)
        finally:
            await self._release(contended - refused)

    async def _release(self, held: set[str]) -> None:
        for event_id in await self._lock.release(held):
            self.mark_contended(event_id)
            self._park(event_id, PARK_YIELD_S)

    async def _commit(self, store: BatchStore, batch: list[Waiting]) -> None:
        """Run one batch to its end: every request is answered or back in line."""
        count = len(batch)
        self._in_batch += count
        try:
            undone = await self._attempt(store, batch, trust_fresh=True)
            if undone:
                self._queues.put_back(undone)
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
                self._wake.set()
        finally:
            self._in_batch -= count

    async def _attempt(
        self, store: BatchStore, batch: list[Waiting], *, trust_fresh: bool
    ) -> list[Waiting]:
        """Answer `batch`, and return those that have to go back in line, in their order."""
        if not batch:
            return []
        try:
            return await self._transact(store, batch, trust_fresh=trust_fresh)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            await store.end()
            return await self._bisect(store, batch, error, trust_fresh=trust_fresh)
        except AWAY as error:
            # The database was busy or went away, and nothing was committed.
            logger.warning(
                "a batch was not committed",
                extra={"error": str(error), "request_ids": _request_ids(batch)},
            )
            await store.end()
            return batch
        except (CommitUnknown, psycopg.Error):
            logger.exception("a batch failed", extra={"request_ids": _request_ids(batch)})
            await store.end()
            _answer_all(batch, unavailable())
        return []

    async def _transact(
        self, store: BatchStore, batch: list[Waiting], *, trust_fresh: bool
    ) -> list[Waiting]:
        """Decide and commit `batch`; requests that are set aside are removed from it.

        After a refusal nothing is set aside, since the later parts of the batch would overtake it:
        all of it is returned, to go back in line.
        """
        seen_at = time.monotonic()
        requests = [waiting.request for waiting in batch]
        locked = await store.read(requests, trust_fresh=trust_fresh)
        if locked.skipped and not trust_fresh:
            await store.end()
            for event_id in locked.skipped:
                self.mark_contended(event_id)
            return batch
        if locked.skipped:
            self._set_skipped_aside(batch, locked.skipped)
            requests = [waiting.request for waiting in batch]
        decisions = await self._decide(store, requests, locked)
        if decisions.accepted:
            await self._write(store, decisions)
        else:
            await store.end()
        for waiting, outcome in zip(batch, decisions.outcomes, strict=True):
            _answer(waiting, outcome)
        self._after_commit(locked.sales, decisions, seen_at)
        return []

    async def _decide(
        self, store: BatchStore, requests: list[CreateRequest], locked: Locked
    ) -> Decisions:
        held = await store.held(requests, locked.sales)
        # Without a locked sale no decision depends on the time.
        now = locked.now or datetime.min.replace(tzinfo=UTC)
        hold_ttl = self._hold_ttl if locked.now else timedelta()
        return decide(requests, locked.sales, locked.known, held, now=now, hold_ttl=hold_ttl)

    async def _write(self, store: BatchStore, decisions: Decisions) -> None:
        """Commit; if the outcome is unknown, read it back by the ids that were minted before.

        Raises:
            ticketra.postgres_away.AWAY: nothing was committed.
            CommitUnknown: nobody knows.

        """
        try:
            await store.write(decisions.accepted, decisions.taken)
        except CommitUnknown as unknown:
            try:
                committed = await store.committed(decisions.accepted)
            except psycopg.Error:
                raise unknown from None
            if not committed:
                raise psycopg.OperationalError("the connection broke before COMMIT") from unknown

    def _after_commit(self, sales: dict[str, Sale], decisions: Decisions, seen_at: float) -> None:
        for event_id, sale in sales.items():
            self._skips.pop(event_id, None)
            if sale.remaining == decisions.taken.get(event_id, 0):
                self._markers.put(event_id, sale.stock_version, seen_at)
        if decisions.accepted:
            self._on_commit()

    async def _bisect(
        self,
        store: BatchStore,
        batch: list[Waiting],
        error: psycopg.Error,
        *,
        trust_fresh: bool,
    ) -> list[Waiting]:
        """Find the one request that the database refuses, and refuse only that one.

        Returns those that have to go back in line, because the database went away meanwhile.
        """
        if trust_fresh and any(waiting.request.key_is_fresh for waiting in batch):
            return await self._attempt(store, batch, trust_fresh=False)
        if len(batch) == 1:
            return await self._refuse(store, batch[0], error)
        middle = len(batch) // 2
        undone = await self._attempt(store, batch[:middle], trust_fresh=False)
        if undone:
            return undone + batch[middle:]
        return await self._attempt(store, batch[middle:], trust_fresh=False)

    async def _refuse(
        self, store: BatchStore, waiting: Waiting, error: psycopg.Error
    ) -> list[Waiting]:
        """Refuse the one request that the database does not take.

        A key that another task committed after it was looked up here is looked up once more, and
        then it is known.
        """
        if isinstance(error, psycopg.errors.UniqueViolation) and not waiting.looked_up_again:
            waiting.looked_up_again = True
            return await self._attempt(store, [waiting], trust_fresh=False)
        logger.error(
            "the database refused a booking",
            extra={"error": str(error), "request_id": waiting.request.request_id},
        )
        _answer(waiting, _refused_by_database())
        return []

    def _set_skipped_aside(self, batch: list[Waiting], skipped: frozenset[str]) -> None:
        self._put_back(batch, skipped, PARK_S)
        for event_id in skipped:
            self.mark_contended(event_id)
            self._spawn(self._lock.signal(CONTENDED, event_id))
            self._skips[event_id] = self._skips.get(event_id, 0) + 1
            if self._skips[event_id] >= SKIPS_BEFORE_WAITING and self._waiting_event is None:
                self._waiting_event = event_id
                self._spawn(self._serve_waiting(event_id))

    async def _serve_waiting(self, event_id: str) -> None:
        """Serve one event on the connection that waits for its row, while the others go on."""
        try:
            await self._commit(self._waiting_store, self._queues.take_event(event_id, BATCH_LIMIT))
        finally:
            self._waiting_event = None
            self.unpark(event_id)

    def _put_back(
        self, batch: list[Waiting], event_ids: set[str] | frozenset[str], pause_s: float
    ) -> None:
        """Move the requests of `event_ids` from `batch` to the front of their lines, and park."""
        if not event_ids:
            return
        self._queues.put_back([w for w in batch if w.request.event_id in event_ids])
        batch[:] = [w for w in batch if w.request.event_id not in event_ids]
        for event_id in event_ids:
            self._park(event_id, pause_s)

    def _park(self, event_id: str, pause_s: float) -> None:
        self._queues.park(event_id)
        self._loop.call_later(pause_s, self.unpark, event_id)

    def _forget_old_contention(self) -> None:
        now = self._loop.time()
        for event_id in [e for e, until in self._contended_until.items() if until <= now]:
            del self._contended_until[event_id]
            self._skips.pop(event_id, None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _refused_by_database() -> Invalid:
    return Invalid("validation_failed", "The booking cannot be stored as it was sent.")


def _answer(waiting: Waiting, outcome: Outcome) -> None:
    if not waiting.answer.done():
        waiting.answer.set_result(outcome)


def _request_ids(batch: Iterable[Waiting]) -> list[str]:
    return [waiting.request.request_id for waiting in islice(batch, LOGGED_IDS_LIMIT)]


def _answer_all(waiting: Iterable[Waiting], refusal: Refusal) -> None:
    for one in waiting:
        _answer(one, refusal)
