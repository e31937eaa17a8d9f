"""Those who use the tasks: buyers, who ask again with the same key, and an organiser."""

from collections.abc import Callable
from datetime import timedelta
from enum import Enum, auto
from random import Random

from booking.models import Accepted, Booking, Outcome, Replayed, Sale, SaleTerms
from tests.simulation.database import EPOCH, UNSTORABLE, Database
from tests.simulation.payment import Call
from tests.simulation.scheduler import Steps
from ticketra.errors import Refusal

TRIES = 4
BACK_OFF_LIMIT_MS = 600
TICKETS_LIMIT = 7  # the bank declines more than 5
CAPACITY_LIMIT = 13
ORGANISER_PAUSE_LIMIT_MS = 4_000
CHANGES_LIMIT = 5
BUYERS = (6, 30)
ASKS_LIMIT = 12
ASK_AGAIN_LIMIT_MS = 400
TWIN_LIMIT_MS = 30
UNSTORABLE_SHARE = 0.03


class KeyKind(Enum):
    """Who made the idempotency key of a request, if it has one."""

    NONE = auto()
    CLIENT = auto()
    MINTED = auto()  # by the gateway, which marks it as fresh on the first try


class People:
    """Makes the processes of buyers and of the organiser."""

    def __init__(self, rng: Random, database: Database, call: Call, events: list[str]) -> None:
        self._rng = rng
        self._database = database
        self._call = call
        self._events = events
        self._keys = 0
        self.busy = 0  # buyers and organisers who are not done

    def start(self, start: Callable[[Steps[None], int], None], until_ms: int) -> None:
        """Send everybody on their way, some time before `until_ms`."""
        rng = self._rng
        for event_id in self._events:
            start(self._counted(self._organise(event_id)), rng.randrange(300))
        rush_ms = rng.choice([300, 3_000, until_ms])
        for _ in range(rng.randrange(*BUYERS)):
            visit = self._visit()
            first_ms = rng.randrange(rush_ms)
            # Copies come nearly at once, or spread over the rush.
            spread_ms = rng.choice([TWIN_LIMIT_MS, rush_ms]) if len(visit) > 1 else 1
            for steps in visit:
                start(self._counted(steps), first_ms + rng.randrange(spread_ms))

    def _counted(self, steps: Steps[None]) -> Steps[None]:
        self.busy += 1

        def counted() -> Steps[None]:
            yield from steps
            self.busy -= 1

        return counted()

    def _visit(self) -> list[Steps[None]]:
        """Return what one buyer does: mostly one purchase, sometimes the same in parallel."""
        rng = self._rng
        kind = rng.choice(list(KeyKind))
        self._keys += 1
        key = "" if kind is KeyKind.NONE else f"key-{self._keys}"
        event_id, user_id = rng.choice(self._events), rng.choice(["ada", "bob", "cyd"])
        tickets = 1 + min(rng.randrange(TICKETS_LIMIT), rng.randrange(TICKETS_LIMIT))
        if kind is KeyKind.NONE and rng.random() < 0.5:
            return [self._keep_asking(event_id, user_id, tickets)]
        if rng.random() < UNSTORABLE_SHARE:
            user_id = UNSTORABLE
        copies = rng.choice([1, 1, 2, 3]) if kind is KeyKind.CLIENT else 1
        visits = [
            self._buy(event_id, user_id, tickets, key, fresh=kind is KeyKind.MINTED)
            for _ in range(copies)
        ]
        if kind is KeyKind.CLIENT and rng.random() < 0.2:  # the same key for something else
            other = rng.choice(self._events)
            visits.append(self._buy(other, user_id, tickets + 1, key, fresh=False))
        return visits

    def _buy(
        self, event_id: str, user_id: str, tickets: int, key: str, *, fresh: bool
    ) -> Steps[None]:
        rng = self._rng
        booking = yield from self._ask(event_id, user_id, tickets, key, fresh=fresh)
        if booking is None:
            return
        if key and rng.random() < 0.3:
            yield rng.randrange(6_000)
            again = yield from self._ask(event_id, user_id, tickets, key, fresh=False)
            assert again is None or again.id == booking.id, f"{key} made {booking} and {again}"
        if rng.random() < 0.35:
            yield rng.randrange(rng.choice([50, 8_000]))
            yield from self._cancel(booking.id)

    def _keep_asking(self, event_id: str, user_id: str, tickets: int) -> Steps[None]:
        """Ask again and again, as people do when an event is sold out; give it up at once."""
        for _ in range(ASKS_LIMIT):
            booking = yield from self._ask(event_id, user_id, tickets, "", fresh=False)
            if booking is not None:
                yield from self._cancel(booking.id)
            yield self._rng.randrange(ASK_AGAIN_LIMIT_MS)

    def _ask(
        self, event_id: str, user_id: str, tickets: int, key: str, *, fresh: bool
    ) -> Steps[Booking | None]:
        """Ask until there is a clear answer; without a key a request is not repeated."""
        for attempt in range(TRIES if key else 1):
            fresh_now = fresh and attempt == 0
            said: Outcome | None = yield from self._call(
                lambda task, reply, fresh_now=fresh_now: task.create(  # type: ignore[misc]
                    event_id, user_id, tickets, key, key_is_fresh=fresh_now, reply=reply
                )
            )
            if isinstance(said, Accepted | Replayed):
                return said.booking
            if isinstance(said, Refusal) and said.retry_after_s is None:
                return None
            yield self._rng.randrange(BACK_OFF_LIMIT_MS)
        return None

    def _cancel(self, booking_id: str) -> Steps[None]:
        for _ in range(TRIES):
            said: Booking | Refusal | None = yield from self._call(
                lambda task, reply: task.cancel(booking_id, reply)
            )
            if isinstance(said, Booking):
                assert said.status == "CANCELLED", f"{said} was cancelled and is not"
                return
            if said is not None and said.retry_after_s is None:
                return
            yield self._rng.randrange(BACK_OFF_LIMIT_MS)

    def _organise(self, event_id: str) -> Steps[None]:
        """Open a sale, change it a few times, and sometimes close it."""
        rng = self._rng
        yield from self._put_sale(event_id, 1)
        version = 1
        for _ in range(rng.randrange(CHANGES_LIMIT)):
            yield rng.randrange(ORGANISER_PAUSE_LIMIT_MS)
            version += 1
            # Sometimes an old version comes after a newer one, which must change nothing.
            yield from self._put_sale(event_id, rng.choice([version, version, version - 1]))
        if rng.random() < 0.2:
            yield rng.randrange(ORGANISER_PAUSE_LIMIT_MS)
            yield from self._close_sale(event_id, rng.choice([version, version + 1, version + 1]))
            yield rng.randrange(ORGANISER_PAUSE_LIMIT_MS)
            yield from self._put_sale(event_id, version + 2)

    def _put_sale(self, event_id: str, version: int) -> Steps[None]:
        terms = self._terms()
        for _ in range(TRIES):
            said: Sale | Refusal | None = yield from self._call(
                lambda task, reply: task.put_sale(event_id, version, terms, reply)
            )
            if isinstance(said, Sale):
                assert said.version >= version, f"{said} was put as version {version}"
                return
            if said is not None and said.retry_after_s is None:
                return
            yield self._rng.randrange(BACK_OFF_LIMIT_MS)

    def _close_sale(self, event_id: str, version: int) -> Steps[None]:
        for _ in range(TRIES):
            said: Sale | Refusal | None = yield from self._call(
                lambda task, reply: task.close_sale(event_id, version, reply)
            )
            if isinstance(said, Sale):
                return
            yield self._rng.randrange(BACK_OFF_LIMIT_MS)

    def _terms(self) -> SaleTerms:
        rng = self._rng
        opens = EPOCH + timedelta(milliseconds=rng.randrange(2_000))
        return SaleTerms(
            capacity=rng.randrange(1, CAPACITY_LIMIT),
            price_amount_minor=rng.choice([0, 2_500]),
            price_currency="EUR",
            sales_start=rng.choice([None, None, opens]),
            sales_end=rng.choice([None, None, opens + timedelta(seconds=rng.randrange(20))]),
            max_per_booking=rng.choice([0, 0, 4]),
            max_per_user=rng.choice([0, 6, 8]),
        )
