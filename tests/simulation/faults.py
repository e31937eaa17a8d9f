"""What goes wrong, and how often. Each seed draws its own mixture, with some faults left out."""

from enum import Enum, auto
from random import Random

from tests.simulation.scheduler import Actor, Crash

FAULT_IS_LEFT_OUT = 0.4
STEP_LIMIT_MS = 12
SLOW_STEP_LIMIT_MS = 900
OUTAGE_SHARE = 0.3
OUTAGE_FROM_LIMIT_MS = 8_000


class CommitFate(Enum):
    """What becomes of a COMMIT, and what its sender learns of it."""

    ANSWERED = auto()
    FAILED = auto()  # nothing is written, and the sender knows
    WRITTEN_UNHEARD = auto()
    LOST_UNHEARD = auto()


class PublishFate(Enum):
    """What becomes of a message on its way to the broker."""

    CONFIRMED = auto()
    TAKEN_UNHEARD = auto()
    LOST = auto()


class Faults:
    """Draws what goes wrong next; after `stop`, nothing does."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._random = rng.random
        self._on = True
        self._steps_are_slow = self._share(0.2)
        self._commit_fails = self._share(0.10)
        self._commit_unknown = self._share(0.15)
        self._crashes = self._share(0.012)
        self._answer_is_lost = self._share(0.15)
        self._announcement_is_lost = self._share(0.9)
        self._announcement_is_late = self._share(0.9)
        self._publish_fails = self._share(0.3)
        self._duplicates = self._share(0.5)
        self._delivery_is_late = self._share(0.4)
        self._redelivery_is_late = self._share(0.8)
        self._provider_fails = self._share(0.4)
        self._pauses = self._share(0.6)
        self._payment_stalls = self._share(0.1)
        self._broker_away_until_ms = rng.randrange(12_000) if rng.random() < 0.3 else 0
        self._database_away_ms = _outage(rng, 4_000)
        self._provider_away_ms = _outage(rng, 8_000)
        self._booking_away_ms = _outage(rng, 8_000)

    def stop(self) -> None:
        """Let nothing go wrong any more."""
        self._on = False

    def step_ms(self, actor: Actor) -> int:
        """Return how long a step over the network takes.

        Raises:
            Crash: `actor` dies here.

        """
        if self._happens(self._crashes):
            raise Crash(actor.name)
        if self._happens(self._steps_are_slow):
            return self.up_to(SLOW_STEP_LIMIT_MS)
        return self.up_to(STEP_LIMIT_MS)

    def database_is_away(self, now_ms: int) -> bool:
        """Say whether no transaction goes through at this time."""
        return self._on and now_ms in self._database_away_ms

    def commit(self, now_ms: int) -> CommitFate:
        """Return what becomes of a COMMIT."""
        if self.database_is_away(now_ms) or self._happens(self._commit_fails):
            return CommitFate.FAILED
        if self._happens(self._commit_unknown):
            written = self._random() < 0.5
            return CommitFate.WRITTEN_UNHEARD if written else CommitFate.LOST_UNHEARD
        return CommitFate.ANSWERED

    def publish(self, now_ms: int) -> PublishFate:
        """Return what becomes of a message on its way to the broker."""
        if self._on and now_ms < self._broker_away_until_ms:
            return PublishFate.LOST
        if self._happens(self._publish_fails):
            return PublishFate.TAKEN_UNHEARD if self._random() < 0.5 else PublishFate.LOST
        return PublishFate.CONFIRMED

    def loses_answer(self) -> bool:
        """Say whether the answer to a call is lost."""
        return self._happens(self._answer_is_lost)

    def announcement_ms(self) -> int | None:
        """Return how long an announcement travels; None if it is lost."""
        if self._happens(self._announcement_is_lost):
            return None
        return self.up_to(3_000 if self._happens(self._announcement_is_late) else 20)

    def deliveries_ms(self) -> list[int]:
        """Return after how long each copy of a message is delivered: one copy, or up to five."""
        copies = 2 + int(self._random() * 4) if self._happens(self._duplicates) else 1
        return [
            self.up_to(12_000 if self._happens(self._delivery_is_late) else 50)
            for _ in range(copies)
        ]

    def backlog_ms(self) -> int:
        """Return how long a message that comes again waits behind others: mostly not at all."""
        return self.up_to(12_000) if self._happens(self._redelivery_is_late) else 0

    def provider_fails(self, now_ms: int) -> bool:
        """Say whether a call of the payment provider gets no answer."""
        away = self._on and now_ms in self._provider_away_ms
        return away or self._happens(self._provider_fails)

    def booking_is_away(self, now_ms: int) -> bool:
        """Say whether the payment workers reach no booking task at this time."""
        return self._on and now_ms in self._booking_away_ms

    def stall_ms(self) -> int:
        """Return how long one payment stands still at a step: mostly not at all."""
        return self.up_to(6_000) if self._happens(self._payment_stalls) else 0

    def pause_ms(self) -> int:
        """Return how long an actor stands still now: mostly not at all."""
        return self.up_to(6_000) if self._happens(self._pauses) else 0

    def up_to(self, limit_ms: int) -> int:
        """Return a time of 1 to `limit_ms`."""
        return 1 + int(self._random() * limit_ms)

    def _happens(self, share: float) -> bool:
        return self._on and self._random() < share

    def _share(self, limit: float) -> float:
        return 0.0 if self._random() < FAULT_IS_LEFT_OUT else self._random() * limit


def _outage(rng: Random, limit_ms: int) -> range:
    """Return when something is away in this world: mostly never."""
    if rng.random() >= OUTAGE_SHARE:
        return range(0)
    first_ms = rng.randrange(OUTAGE_FROM_LIMIT_MS)
    return range(first_ms, first_ms + rng.randrange(limit_ms))
