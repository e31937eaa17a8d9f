"""A payment worker that dies by kill -9 at one point of its work.

The points are right before and right after each thing that leaves a trace: every statement of the
store and of the bank, every call to booking, every acknowledgement, every copy that is published.

`python -m tests.faults.doomed_worker` reads lines from standard input: the number of the point to
die at (0: never), or the name of a method to die before, and maybe the name of a flaw to work with.
For each it forks a worker, which saves the imports, writes "started", and then "killed" or "ended".
Told "stop" meanwhile, it makes the worker stop in order; anything else kills it. The settings are
those of the worker itself.
"""

import asyncio
import os
import select
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID, uuid4

import uvloop
from pika.channel import Channel

from payment import worker
from payment.bookings import Bookings
from payment.consumer import Consumer
from payment.mock_bank import MockBank
from payment.provider import Charge, ChargeStatus
from payment.settings import WorkerSettings
from payment.store import PaymentStore
from ticketra.broker import Broker
from ticketra.settings import load_settings

# What the workers log goes to standard error.
_ANSWERS = os.dup(1)
os.dup2(2, 1)

_ACKNOWLEDGE = Channel.basic_ack

POINTS: tuple[tuple[type, tuple[str, ...]], ...] = (
    (PaymentStore, ("record", "record_cancellation", "move", "end_attempt")),
    (MockBank, ("charge", "look_up", "refund")),
    (Bookings, ("extend_hold", "confirm", "release", "record_refund")),
    (Broker, ("publish",)),
)
Method = TypeVar("Method", bound=Callable[..., Any])


class Doom:
    """Counts points, and ends the process at one of them."""

    def __init__(self, where: str) -> None:
        self._left = int(where) if where.isdigit() else 0
        self._method = where

    def point(self, before: str = "") -> None:
        """Pass a point, which may be right before a method, or die at it."""
        self._left -= 1
        if self._left == 0 or before == self._method:
            os.kill(os.getpid(), signal.SIGKILL)

    def awaited(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Return `method` with a point before and a point after it."""

        async def doomed(*arguments: Any, **named: Any) -> Any:
            self.point(method.__name__)
            result = await method(*arguments, **named)
            self.point()
            return result

        return doomed

    def called(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a `method` that is not awaited with a point before and a point after it."""

        def doomed(*arguments: Any, **named: Any) -> Any:
            self.point(method.__name__)
            result = method(*arguments, **named)
            self.point()
            return result

        return doomed


def acknowledge_first() -> None:
    """Flaw: a message is acknowledged before its effect is stored."""
    handle = Consumer._handle

    async def hasty(self: Consumer, handler: Any, channel: Channel, delivery: Any) -> None:
        _ACKNOWLEDGE(channel, delivery.tag)
        await asyncio.sleep(0.005)  # the acknowledgement travels
        await handle(self, handler, _Deaf(channel), delivery)

    Consumer._handle = hasty  # type: ignore[method-assign, assignment]


class _Deaf:
    is_open = False

    def __init__(self, _: Channel) -> None:
        pass


def charge_anew() -> None:
    """Flaw: each attempt asks for the charge with an idempotency key of its own."""
    charge = MockBank.charge

    async def keyless(self: MockBank, *, booking_id: UUID, **wish: Any) -> Charge:
        return await charge(self, booking_id=uuid4(), **wish)

    MockBank.charge = keyless  # type: ignore[method-assign]
    _look_away(None)


def take_silence_for_a_decline() -> None:
    """Flaw: a charge whose outcome is unknown is taken for declined."""
    _look_away(Charge(ChargeStatus.DECLINED, "no answer"))


def _look_away(answer: Charge | None) -> None:
    async def look_up(self: MockBank, booking_id: UUID) -> Charge | None:
        return answer

    MockBank.look_up = look_up  # type: ignore[method-assign]


FLAWS: dict[str, Callable[[], None]] = {
    flaw.__name__: flaw for flaw in (acknowledge_first, charge_anew, take_silence_for_a_decline)
}


def _work(where: str, flaw: str) -> int:
    if flaw:
        FLAWS[flaw]()
    doom = Doom(where)
    for owner, names in POINTS:
        for name in names:
            setattr(owner, name, doom.awaited(getattr(owner, name)))
    Channel.basic_ack = doom.called(Channel.basic_ack)
    return uvloop.run(_run())


async def _run() -> int:
    return await worker.Worker(load_settings(WorkerSettings)).run()


def _say(word: str) -> None:
    os.write(_ANSWERS, f"{word}\n".encode())


def main() -> None:
    """Serve one order after the other."""
    for line in iter(sys.stdin.readline, ""):
        where, _, flaw = line.strip().partition(" ")
        child = os.fork()
        if not child:
            os._exit(_work(where, flaw))
        _say("started")
        _say(_outlived(child))


def _outlived(child: int) -> str:
    """Wait until the worker is dead, or make it stop when the next line says so."""
    pidfd = os.pidfd_open(child)
    try:
        readable, _, _ = select.select([pidfd, sys.stdin], [], [])
        if pidfd not in readable:
            how = sys.stdin.readline().strip()
            os.kill(child, signal.SIGTERM if how == "stop" else signal.SIGKILL)
    finally:
        os.close(pidfd)
    _, status = os.waitpid(child, 0)
    return "killed" if os.WIFSIGNALED(status) else f"ended {os.waitstatus_to_exitcode(status)}"


if __name__ == "__main__":
    main()
