"""The model of the `orders` database: rows, row locks, and transactions that apply whole or not.

It stands for what PostgreSQL promises: a transaction sees what is committed, locks rows until its
end, is refused by the same constraints, and survives its client once COMMIT has arrived.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from booking.models import Accepted, Booking, KnownKey, Sale, Transition
from tests.simulation.faults import CommitFate, Faults
from tests.simulation.guards import Guard
from tests.simulation.invariants import Invariants
from tests.simulation.scheduler import Actor, Scheduler, Steps

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
LOCK_TIMEOUT_MS = 1_000
LOCK_POLL_LIMIT_MS = 25
UNSTORABLE = "\x00"  # a user id that no column takes: what slips through the validation
LATE_END_LIMIT_MS = 400  # a connection breaks before the server has noticed


class Away(Exception):  # noqa: N818 - what psycopg calls an operational error
    """The database gave up on a transaction; nothing of it was written."""


class CommitUnknown(Exception):  # noqa: N818 - neither success nor failure
    """The connection broke after COMMIT was sent."""


class Refused(Exception):  # noqa: N818 - what psycopg calls an integrity error
    """A constraint does not allow the rows; nothing of the transaction was written."""


class Duplicate(Refused):
    """A unique index has such a row."""


class StateChanged(Exception):  # noqa: N818 - the caller decides again
    """A conditional update found another state."""


class Message:
    """A row of the outbox. `status` and `payment_status` are what its booking had become."""

    __slots__ = ("payment_status", "published", "routing_key", "status", "subject", "was_taken")

    def __init__(self, subject: str, routing_key: str, status: str, payment_status: str) -> None:
        self.subject = subject
        self.routing_key = routing_key
        self.status = status
        self.payment_status = payment_status
        self.published = False
        self.was_taken = False  # by the broker, whether or not that was heard of


class Database:
    """All tables, and who holds which row."""

    def __init__(
        self,
        scheduler: Scheduler,
        faults: Faults,
        invariants: Invariants,
        *,
        off: frozenset[Guard],
    ) -> None:
        self.sales: dict[str, Sale] = {}
        self.bookings: dict[str, Booking] = {}
        self.keys: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.outbox: list[Message] = []
        self.bookings_ended: set[str] = set()  # closed sales whose bookings have all ended
        self.relay: Actor | None = None  # who holds the advisory lock
        self.server = Actor("postgresql")
        self.on_reopened: Callable[[str, int], None]
        self.on_messages: Callable[[], None]
        self.off = off
        self.faults = faults
        self.scheduler = scheduler
        self.invariants = invariants
        self.locks: dict[str, Transaction] = {}
        self._open: dict[Transaction, None] = {}

    @property
    def now(self) -> datetime:
        """The clock that holds and sale windows are compared with."""
        return EPOCH + timedelta(milliseconds=self.scheduler.now_ms)

    def begin(self, owner: Actor) -> "Transaction":
        """Begin a transaction."""
        transaction = Transaction(self, owner)
        self._open[transaction] = None
        return transaction

    def end(self, transaction: "Transaction") -> None:
        """Release what a transaction holds."""
        self._open.pop(transaction, None)
        for name in transaction.locked:
            if self.locks.get(name) is transaction:
                del self.locks[name]
        transaction.locked.clear()

    def forget(self, owner: Actor) -> None:
        """Roll back the transactions of a client that died, once the server notices."""
        for transaction in [one for one in self._open if one.owner is owner]:
            self.end_later(transaction, lambda: None)
        if self.relay is owner:
            self.scheduler.call_later(
                self.server, self.faults.up_to(LATE_END_LIMIT_MS), self._free_relay
            )

    def end_later(self, transaction: "Transaction", effect: Callable[[], None]) -> None:
        """End a transaction without its client; `effect` comes first."""

        def finish() -> None:
            try:
                effect()
            except Refused:
                pass
            finally:
                self.end(transaction)

        del self._open[transaction]
        self.scheduler.call_later(self.server, self.faults.up_to(LATE_END_LIMIT_MS), finish)

    def held(self, event_id: str, user_id: str) -> int:
        """Return the tickets that a user holds of an event."""
        return self.invariants.held(self.bookings.values(), event_id, user_id)

    def known(self, user_id: str, key: str) -> KnownKey | None:
        """Return what an idempotency key made."""
        found = self.keys.get((user_id, key))
        return None if found is None else KnownKey(found[0], self.bookings[found[1]])

    def unpublished(self) -> Iterator[Message]:
        """Return the oldest unpublished message of each subject, in order."""
        subjects: set[str] = set()
        for message in self.outbox:
            if not message.published and message.subject not in subjects:
                subjects.add(message.subject)
                yield message

    def _free_relay(self) -> None:
        self.relay = None
        self.on_messages()


class Transaction:
    """Collects writes and applies them at COMMIT, all or none."""

    def __init__(self, database: Database, owner: Actor) -> None:
        self.owner = owner
        self.locked: list[str] = []
        self._database = database
        self._stock: dict[str, tuple[int, bool]] = {}
        self._inserted: list[Accepted] = []
        self._changed: list[tuple[Booking, Booking]] = []
        self._sales: list[Sale] = []
        self._messages: list[Message] = []
        self._ended: list[str] = []

    def try_lock(self, name: str) -> bool:
        """Lock a row unless somebody else has it, as SKIP LOCKED does."""
        holder = self._database.locks.setdefault(name, self)
        if holder is self and name not in self.locked:
            self.locked.append(name)
        return holder is self

    def lock(self, name: str) -> Steps[None]:
        """Lock a row, waiting for it.

        Raises:
            Away: that took too long; the transaction is over.

        """
        faults, scheduler = self._database.faults, self._database.scheduler
        until_ms = scheduler.now_ms + LOCK_TIMEOUT_MS
        while faults.database_is_away(scheduler.now_ms) or not self.try_lock(name):
            yield faults.up_to(LOCK_POLL_LIMIT_MS)
            if scheduler.now_ms > until_ms:
                self.roll_back()
                raise Away

    def take_stock(self, event_id: str, tickets: int) -> None:
        """Take `tickets` from what remains, however much that is by now."""
        self._stock[event_id] = (-tickets, False)

    def give_back(self, sale: Sale, tickets: int) -> None:
        """Add `tickets` (negative: take them) to a locked sale; say so if that reopens it."""
        moved, _ = self._stock.get(sale.event_id, (0, False))
        moved += tickets
        self._stock[sale.event_id] = (moved, sale.remaining == 0 and moved > 0)

    def insert(self, accepted: Accepted) -> None:
        """Add a booking."""
        self._inserted.append(accepted)

    def change(self, before: Booking, after: Booking) -> None:
        """Change a booking, if it still is as it was `before`.

        Raises:
            StateChanged: it is not.

        """
        present = self._database.bookings[before.id]
        if Guard.STATE_CONDITION not in self._database.off and present != before:
            self.roll_back()
            raise StateChanged
        self._changed.append((before, after))

    def put_sale(self, sale: Sale) -> None:
        """Add or replace a sale."""
        self._sales.append(sale)

    def mark_bookings_ended(self, event_id: str) -> None:
        """Note that nothing is left to do for a closed sale."""
        self._ended.append(event_id)

    def tell(
        self, subject: str, routing_key: str, status: str = "", payment_status: str = ""
    ) -> None:
        """Put a message into the outbox."""
        self._messages.append(Message(subject, routing_key, status, payment_status))

    def tell_of(self, changed: Booking, transition: Transition) -> None:
        """Put a message about a booking that has changed into the outbox, if there is one."""
        if transition.routing_key is not None:
            self.tell(changed.id, transition.routing_key, changed.status, changed.payment_status)

    def roll_back(self) -> None:
        """End without writing anything."""
        self._database.end(self)

    def commit(self) -> Steps[None]:
        """Write everything.

        Raises:
            Away: nothing was written.
            Refused: a constraint does not allow it, and nothing was written.
            CommitUnknown: the connection broke on the way.

        """
        database = self._database
        yield database.faults.step_ms(self.owner)
        fate = database.faults.commit(database.scheduler.now_ms)
        database.scheduler.note(self.owner.name, "COMMIT is", fate.name.lower())
        if fate is CommitFate.FAILED:
            self.roll_back()
            raise Away
        if fate is CommitFate.ANSWERED:
            try:
                self._apply()
            finally:
                self.roll_back()
            yield database.faults.step_ms(self.owner)
            if Guard.OUTBOX_IN_TRANSACTION in database.off:
                self._add_messages()
            return
        written = fate is CommitFate.WRITTEN_UNHEARD
        database.end_later(self, self._apply if written else lambda: None)
        raise CommitUnknown

    def _apply(self) -> None:
        database = self._database
        self._check_constraints()
        touched: dict[str, None] = {}
        for sale in self._sales:
            database.invariants.sale_changes(database.sales.get(sale.event_id), sale)
            self._put(sale, touched)
        for event_id, (tickets, reopens) in self._stock.items():
            self._move(event_id, tickets, touched, reopens=reopens)
        for accepted in self._inserted:
            self._add(accepted)
        for before, after in self._changed:
            self._replace(database.bookings[before.id], after)
        database.bookings_ended.update(self._ended)
        for event_id in touched:
            database.invariants.stock_adds_up(database.sales[event_id], database.bookings.values())
        if Guard.OUTBOX_IN_TRANSACTION not in database.off:
            self._add_messages()

    def _check_constraints(self) -> None:
        database = self._database
        for booking, request in self._inserted:
            if booking.user_id == UNSTORABLE:
                raise Refused
            if booking.id in database.bookings:
                raise Duplicate
            taken = (request.user_id, request.key) in database.keys
            if request.key and taken and Guard.KEY_INDEX not in database.off:
                raise Duplicate
        if Guard.STOCK_CHECK in database.off:
            return
        for event_id, (tickets, _) in self._stock.items():
            sale = database.sales[event_id]
            if not 0 <= sale.remaining + tickets <= sale.capacity:
                raise Refused

    def _put(self, sale: Sale, touched: dict[str, None]) -> None:
        before = self._database.sales.get(sale.event_id)
        self._note("put", sale)
        self._database.sales[sale.event_id] = sale
        touched[sale.event_id] = None
        if before is not None and before.stock_version != sale.stock_version:
            self._reopened(sale)

    def _move(
        self, event_id: str, tickets: int, touched: dict[str, None], *, reopens: bool
    ) -> None:
        sale = self._database.sales[event_id]
        moved = sale._replace(
            remaining=sale.remaining + tickets, stock_version=sale.stock_version + int(reopens)
        )
        self._database.sales[event_id] = moved
        self._note("moved", tickets, "tickets:", event_id, "has", moved.remaining, "left")
        touched[event_id] = None
        if reopens:
            self._reopened(moved)

    def _reopened(self, sale: Sale) -> None:
        database = self._database
        database.invariants.sale_reopens(sale, database.scheduler.now_ms)
        database.on_reopened(sale.event_id, sale.stock_version)

    def _add(self, accepted: Accepted) -> None:
        database = self._database
        booking, request = accepted
        database.invariants.booking_is_made(
            accepted, database.sales[booking.event_id], database.held(*booking[1:3])
        )
        database.bookings[booking.id] = booking
        self._note("added", booking)
        if request.key:
            database.keys[request.user_id, request.key] = (request.request_hash, booking.id)

    def _replace(self, before: Booking, after: Booking) -> None:
        database = self._database
        database.invariants.booking_changes(
            before,
            after,
            database.sales[before.event_id],
            database.held(before.event_id, before.user_id),
            database.now,
        )
        database.bookings[after.id] = after
        self._note("changed", after.id, before.status, before.payment_status, "to", *after[6:9])

    def _note(self, *what: object) -> None:
        self._database.scheduler.note(f"committed for {self.owner.name}", *what)

    def _add_messages(self) -> None:
        if self._messages:
            self._database.outbox.extend(self._messages)
            self._database.on_messages()
