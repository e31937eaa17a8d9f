"""The virtual clock, and whose turn it is: a discrete-event scheduler.

A process is a generator. It yields a number of milliseconds to sleep, or a `Reply` to wait for;
between two yields nothing else happens. Whatever is due at the same millisecond runs in an order
that the seed decides.
"""

from collections.abc import Callable, Generator
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Wait = "int | Reply[Any]"
Steps = Generator[Any, None, T]  # yields what `Wait` names


class Crash(Exception):  # noqa: N818 - an event of the simulation
    """The actor dies at this step, with everything that it does."""


class Actor:
    """Something that may crash or stand still: a booking task, the payment worker, a person."""

    __slots__ = ("alive", "name", "on_crash", "paused_until_ms")

    def __init__(self, name: str, on_crash: Callable[[], None] | None = None) -> None:
        self.name = name
        self.alive = True
        self.paused_until_ms = 0
        self.on_crash = on_crash

    def crash(self) -> None:
        """Die: none of this actor's processes takes another step."""
        if self.alive:
            self.alive = False
            if self.on_crash is not None:
                self.on_crash()


class Reply(Generic[T]):
    """An answer that comes later, or never. The first one counts; one process may wait for it."""

    __slots__ = ("_answered", "_scheduler", "_value", "_waiter")

    def __init__(self, scheduler: "Scheduler") -> None:
        self._scheduler = scheduler
        self._answered = False
        self._waiter: tuple[Actor, Callable[[], None]] | None = None
        self._value: T

    def done(self) -> bool:
        """Say whether there is an answer."""
        return self._answered

    def set_result(self, value: T) -> None:
        """Answer, unless that has been done."""
        if self._answered:
            return
        self._answered = True
        self._value = value
        if self._waiter is not None:
            self._scheduler.call_later(self._waiter[0], 0, self._waiter[1])

    def wait(self) -> Steps[T]:
        """Wait for the answer and return it."""
        yield self
        return self._value

    def wake(self, actor: Actor, resume: Callable[[], None]) -> None:
        """Call `resume` once there is an answer."""
        if self._answered:
            self._scheduler.call_later(actor, 0, resume)
        else:
            self._waiter = (actor, resume)


class Scheduler:
    """Runs processes in the order of virtual time."""

    def __init__(self, rng: Random) -> None:
        self.now_ms = 0
        self.steps = 0
        self.trace: list[str] | None = None
        self._random = rng.random
        self._number = count()
        self._due: list[tuple[int, float, int, Actor, Callable[[], None]]] = []

    def call_later(self, actor: Actor, delay_ms: int, call: Callable[[], None]) -> None:
        """Call after `delay_ms`, unless `actor` is dead by then."""
        due_ms = self.now_ms + delay_ms
        heappush(self._due, (due_ms, self._random(), next(self._number), actor, call))

    def start(self, actor: Actor, steps: Steps[None], delay_ms: int = 0) -> None:
        """Run a process of `actor`."""

        def resume() -> None:
            try:
                wait = next(steps)
            except StopIteration:
                return
            except Crash:
                actor.crash()
                return
            if isinstance(wait, int):
                self.call_later(actor, wait, resume)
            else:
                wait.wake(actor, resume)

        self.call_later(actor, delay_ms, resume)

    def note(self, who: str, *what: object) -> None:
        """Add a line to the trace, if there is one."""
        if self.trace is not None:
            self.trace.append(f"{self.now_ms:>6} ms  {who}: {' '.join(map(str, what))}")

    def run(self, until_ms: int) -> None:
        """Let everything happen that is due until then."""
        due = self._due
        while due and due[0][0] <= until_ms:
            now_ms, _, _, actor, call = heappop(due)
            if not actor.alive:
                continue
            self.now_ms = now_ms
            if actor.paused_until_ms > now_ms:
                self.call_later(actor, actor.paused_until_ms - now_ms, call)
                continue
            self.steps += 1
            call()
        self.now_ms = until_ms
