"""Random programs: rounds of calls that go out at once, to two tasks in turn.

What they ask for refers to few events, users and keys, so that calls meet.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import psycopg
from hypothesis import strategies as st

from booking.booking_store import BookingStore
from booking.holds import Sweeper
from tests.concurrency import books
from tests.concurrency.books import Answer, Asked, Books, Put, Told
from tests.integration.booking_task import CREDENTIALS, BookingTask, orders
from tests.integration.fixtures import opened
from tests.integration.servers import Server
from ticketra import rpc
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.booking.v1 import booking_pb2_grpc as pb_grpc
from ticketra.database import Database
from ticketra.ids import IdSource

CALL_LIMIT_S = 20.0
LOOK_INTERVAL_S = 0.01
EVENTS, USERS, KEYS = 2, 3, 4
CHANNELS = 4  # half of them to each task
SETTLE_LIMIT_S = 20.0

# As old as no hold may get, so that no unpublished message extends it.
MAKE_DUE = """
UPDATE bookings
   SET created_at = now() - interval '2 hours', hold_expires_at = now() - interval '1 second'
 WHERE id = %s AND status = 'PENDING'
"""

REFUSALS = {
    "create": {
        "sold_out",
        "not_enough_tickets",
        "booking_limit",
        "sale_not_open",
        "idempotency_mismatch",
    },
    "confirm": {"tickets_gone", "booking_cancelled"},
    "cancel": {"booking_expired"},
    "decline": {"booking_confirmed"},
    "put": {"capacity_below_sold", "sale_closed"},
    "close": set[str](),
}


@dataclass(frozen=True)
class Terms:
    """How the sale of an event is opened."""

    capacity: int
    max_per_booking: int
    max_per_user: int


@dataclass(frozen=True)
class Create:
    """Ask for tickets, in several copies if there is a key."""

    event: int
    user: int
    count: int
    key: int | None
    fresh: bool
    copies: int


@dataclass(frozen=True)
class End:
    """Confirm, cancel, decline or expire one of the bookings that earlier rounds made."""

    how: str
    booking: int


@dataclass(frozen=True)
class Change:
    """Put terms with another capacity in force."""

    event: int
    capacity: int


@dataclass(frozen=True)
class Close:
    """Close a sale."""

    event: int


Step = Create | End | Change | Close


@dataclass(frozen=True)
class Program:
    """The sales that are opened, and what is then sent together, round for round."""

    terms: tuple[Terms, ...]
    rounds: list[list[Step]]


_events = st.integers(0, EVENTS - 1)
_terms = st.builds(
    Terms,
    capacity=st.integers(1, 12),
    max_per_booking=st.sampled_from([0, 0, 3]),
    max_per_user=st.sampled_from([0, 0, 5]),
)
_creations = st.builds(
    Create,
    event=_events,
    user=st.integers(0, USERS - 1),
    count=st.integers(1, 4),
    key=st.none() | st.integers(0, KEYS - 1),
    fresh=st.booleans(),
    copies=st.integers(1, 4),
)
_endings = st.builds(
    End,
    how=st.sampled_from(["confirm", "cancel", "decline", "expire"]),
    booking=st.integers(0, 5),
)
_changes = st.builds(Change, event=_events, capacity=st.integers(1, 16))
_steps = st.one_of(_creations, _creations, _creations, _endings, _endings, _endings, _changes)
# A closed sale ends most of what may happen, so it is closed late.
_last_steps = st.one_of(_creations, _endings, _changes, st.builds(Close, event=_events))

programs = st.builds(
    lambda terms, rounds, last: Program(terms, [*rounds, *last]),
    terms=st.tuples(*[_terms] * EVENTS),
    rounds=st.lists(st.lists(_steps, min_size=4, max_size=16), min_size=2, max_size=4),
    last=st.lists(st.lists(_last_steps, min_size=2, max_size=12), max_size=2),
)

_program_numbers = itertools.count(1)


@dataclass
class Outcome:
    """What a program left: the books, and all that was heard. `opened` is as in check_at_rest."""

    books: Books
    answers: list[Answer]
    opened: dict[str, int]

    def seen(self) -> Counter[str]:
        """Count what happened, so that a test can tell whether enough did."""
        seen: Counter[str] = Counter()
        for answer in self.answers:
            if isinstance(answer, Asked):
                seen[answer.refusal or ("replayed" if answer.replayed else "made")] += 1
            elif isinstance(answer, Told):
                seen[answer.became] += 1
        for booking_id in self.books.bookings:
            seen[" ".join(self.books.history(booking_id))] += 1
        seen["closed"] = sum(sale.closed for sale in self.books.sales.values())
        return seen


async def play(program: Program, postgres: Server, tasks: Sequence[BookingTask]) -> Outcome:
    """Run a program on events of its own, and check the books all the time and in the end."""
    async with opened(postgres) as database, _stubs(tasks) as stubs:
        player = _Player(program, postgres, database, stubs)
        return await player.play()


@asynccontextmanager
async def _stubs(
    tasks: Sequence[BookingTask],
) -> AsyncIterator["list[pb_grpc.BookingServiceAsyncStub]"]:
    """Connect to the tasks in turn, each connection one of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    addresses = [tasks[number % len(tasks)].address for number in range(CHANNELS)]
    opened_channels = [grpc.aio.insecure_channel(a, options=options) for a in addresses]
    try:
        yield [pb_grpc.BookingServiceStub(channel) for channel in opened_channels]
    finally:
        for channel in opened_channels:
            await channel.close()


class _Player:
    def __init__(
        self,
        program: Program,
        postgres: Server,
        database: Database,
        stubs: "list[pb_grpc.BookingServiceAsyncStub]",
    ) -> None:
        self._program = program
        self._postgres = postgres
        self._database = database
        self._stubs = itertools.cycle(stubs)
        self._in_batches = itertools.cycle([True, False])
        number = next(_program_numbers)
        self._run = f"program-{number}"
        self._events = [f"{self._run}-{event}" for event in range(len(program.terms))]
        self._versions = itertools.count(2)
        self._sweeper = Sweeper(BookingStore(database, IdSource()), 600, 3600, lambda: None)
        self._answers: list[Answer] = []
        self._made: list[str] = []
        self._known_keys: set[tuple[str, str]] = set()
        self._seen: Books | None = None

    async def play(self) -> Outcome:
        await asyncio.gather(
            *(
                self._put(event_id, 1, terms.capacity)
                for event_id, terms in zip(self._events, self._program.terms, strict=True)
            )
        )
        self._answers.clear()  # the opening is known from the program
        ended = asyncio.Event()
        looking = asyncio.create_task(self._look_until(ended))
        try:
            for steps in self._program.rounds:
                await self._together(steps)
        finally:
            ended.set()
            await looking
        await self._settle()
        found = await asyncio.to_thread(self._look)
        capacities = [terms.capacity for terms in self._program.terms]
        outcome = Outcome(found, self._answers, dict(zip(self._events, capacities, strict=True)))
        books.check_at_rest(outcome.books, outcome.answers, outcome.opened)
        return outcome

    async def _together(self, steps: list[Step]) -> None:
        """Send all of a round at once; bookings and keys of earlier rounds are known."""
        calls: list[Awaitable[None]] = []
        for step in steps:
            calls += self._calls(step)
        answered = len(self._answers)
        await asyncio.gather(*calls)
        made = [a for a in self._answers[answered:] if isinstance(a, Asked) and a.booking_id]
        self._made += sorted({a.booking_id for a in made} - set(self._made))
        self._known_keys |= {(a.user_id, a.key) for a in made if a.key}

    def _calls(self, step: Step) -> list[Awaitable[None]]:
        if isinstance(step, Create):
            return [self._create(step) for _ in range(1 if step.key is None else step.copies)]
        if isinstance(step, Change):
            return [self._put(self._events[step.event], next(self._versions), step.capacity)]
        if isinstance(step, Close):
            return [self._close(self._events[step.event], next(self._versions))]
        if not self._made:
            return []
        booking_id = self._made[step.booking % len(self._made)]
        if step.how == "expire":
            return [self._expire(booking_id)]
        return [self._end(step.how, booking_id)]

    async def _create(self, step: Create) -> None:
        event_id, user_id = self._events[step.event], f"{self._run}-user-{step.user}"
        key = "" if step.key is None else f"key-{step.key}"
        request = pb.CreateBookingRequest(
            event_id=event_id,
            user_id=user_id,
            ticket_count=step.count,
            idempotency_key=key,
            key_is_fresh=step.fresh,
        )
        known = not step.fresh and (user_id, key) in self._known_keys
        answer = await self._call("create", next(self._stubs).CreateBooking, request, "gateway")
        asked = Asked(event_id, user_id, step.count, key, "", False, "", known)
        if isinstance(answer, str):
            self._answers.append(asked._replace(refusal=answer))
        else:
            self._answers.append(
                asked._replace(booking_id=answer.booking.id, replayed=answer.replayed)
            )

    async def _end(self, how: str, booking_id: str) -> None:
        stub = next(self._stubs)
        if how == "confirm":
            answer = await self._confirm(stub, booking_id)
        else:
            declined = how == "decline"
            cancel = pb.CancelBookingRequest(id=booking_id, payment_declined=declined)
            caller = "payment" if declined else "gateway"
            answer = await self._call(how, stub.CancelBooking, cancel, caller)
        if not isinstance(answer, str):
            answer = pb.BookingStatus.Name(answer.status).removeprefix("BOOKING_STATUS_")
        self._answers.append(Told(how, booking_id, answer))

    async def _confirm(self, stub: Any, booking_id: str) -> Any:
        """Confirm alone, or as payment does: in a batch, and alone if that says nothing."""
        if next(self._in_batches):
            batch = pb.BatchConfirmBookingsRequest()
            batch.confirmations.add(id=booking_id)
            answer = await self._call("confirm", stub.BatchConfirmBookings, batch, "payment")
            if not isinstance(answer, str) and answer.confirmed_ids:
                return pb.Booking(status=pb.BOOKING_STATUS_CONFIRMED)
        confirm = pb.ConfirmBookingRequest(id=booking_id)
        return await self._call("confirm", stub.ConfirmBooking, confirm, "payment")

    async def _expire(self, booking_id: str) -> None:
        async with self._database.lend() as connection:
            await connection.execute(MAKE_DUE, [booking_id])
        await self._sweeper.sweep()

    async def _put(self, event_id: str, version: int, capacity: int) -> None:
        terms = self._program.terms[self._events.index(event_id)]
        request = pb.PutSaleRequest(
            event_id=event_id,
            version=version,
            terms=pb.SaleTerms(
                capacity=capacity,
                max_per_booking=terms.max_per_booking,
                max_per_user=terms.max_per_user,
            ),
        )
        answer = await self._call("put", next(self._stubs).PutSale, request, "event")
        self._note_sale(Put(event_id, version, capacity, 0, False), answer)

    async def _close(self, event_id: str, version: int) -> None:
        request = pb.CloseSaleRequest(event_id=event_id, version=version)
        answer = await self._call("close", next(self._stubs).CloseSale, request, "event")
        self._note_sale(Put(event_id, version, None, 0, False), answer)

    def _note_sale(self, asked: Put, answer: pb.Sale | str) -> None:
        if not isinstance(answer, str):
            asked = asked._replace(heard_version=answer.version, heard_closed=answer.closed)
        self._answers.append(asked)

    async def _call(
        self, name: str, method: Callable[..., Awaitable[Any]], request: Any, caller: str
    ) -> Any:
        """Return the answer, or the code of a refusal that this call may get."""
        metadata = rpc.caller_metadata(caller, CREDENTIALS[caller])
        try:
            return await method(request, metadata=metadata, timeout=CALL_LIMIT_S)
        except grpc.aio.AioRpcError as error:
            refusal = rpc.to_refusal(error)
            code = refusal.code if refusal else str(error.code())
            expected = REFUSALS[name] | {"event_busy"}
            assert code in expected, f"{request} was refused with {code}"
            return code

    async def _settle(self) -> None:
        """Let every hold end, and whatever a closed sale still holds."""
        for booking_id in self._made:
            await self._expire(booking_id)
        async with asyncio.timeout(SETTLE_LIMIT_S):
            while not self._rests(await asyncio.to_thread(self._look)):
                await self._sweeper.sweep()

    def _rests(self, found: Books) -> bool:
        closed = {sale.event_id for sale in found.sales.values() if sale.closed}
        return not any(
            b.status == "PENDING" or (b.status == "CONFIRMED" and b.event_id in closed)
            for b in found.bookings.values()
        )

    async def _look_until(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            await asyncio.to_thread(self._look)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await ended.wait()

    def _look(self) -> Books:
        """Read the books as of one moment, and check them and the way to them."""
        with orders(self._postgres) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            with connection.transaction():
                found = books.read(connection, self._events)
        books.check(found)
        if self._seen is not None:
            books.check_step(self._seen, found)
        self._seen = found
        return found
