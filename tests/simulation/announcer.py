"""NOTIFY, and what may become of it: an announcement reaches a task late, out of order or never."""

from collections.abc import Sequence
from typing import Protocol

from tests.simulation.faults import Faults
from tests.simulation.scheduler import Actor, Scheduler


class Listener(Protocol):
    """A task that hears of reopened sales."""

    actor: Actor

    def hear(self, event_id: str, stock_version: int) -> None:
        """A sale has tickets again."""


class Announcer:
    """Tells every task of a reopened sale."""

    def __init__(self, scheduler: Scheduler, faults: Faults) -> None:
        self.listeners: Sequence[Listener] = ()
        self._scheduler = scheduler
        self._faults = faults

    def announce(self, event_id: str, stock_version: int) -> None:
        """Send an announcement to each task that lives now."""
        for listener in self.listeners:
            delay_ms = self._faults.announcement_ms()
            if delay_ms is not None:
                self._tell(listener, delay_ms, event_id, stock_version)

    def _tell(self, listener: Listener, delay_ms: int, event_id: str, stock_version: int) -> None:
        self._scheduler.call_later(
            listener.actor, delay_ms, lambda: listener.hear(event_id, stock_version)
        )
