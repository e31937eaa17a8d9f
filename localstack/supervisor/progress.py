"""Progress for people: one line a step, with its time, as it ends."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

NAME_WIDTH = 14
OUTCOME_WIDTH = 58
_CLEAR_LINE = "\r\x1b[K"


class Step:
    """A step that runs; what it sets as `outcome` is shown when it ends well.

    What it sets as `detail` is shown beside its name while it runs, on a terminal.
    """

    def __init__(self, name: str, refresh: Callable[[], None]) -> None:
        self.name = name
        self.outcome = "done"
        self._detail = ""
        self._refresh = refresh

    @property
    def detail(self) -> str:
        """How far it is."""
        return self._detail

    @detail.setter
    def detail(self, detail: str) -> None:
        self._detail = detail
        self._refresh()

    def __str__(self) -> str:
        return f"{self.name} {self._detail}".rstrip()


class Progress:
    """Prints to `stream`; steps may run in several threads. Without a stream it prints nothing.

    On a terminal the steps that still run are shown on a last line that is overwritten.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._terminal = stream is not None and stream.isatty()
        self._lock = threading.Lock()
        self._running: list[Step] = []

    def say(self, text: str) -> None:
        """Print one line."""
        with self._lock:
            self._print(text)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time the block as the step `name` and print how it ended."""
        started = time.monotonic()
        step = Step(name, self._refresh)
        with self._lock:
            self._running.append(step)
            self._print(None)
        ended_well = False
        try:
            yield step
            ended_well = True
        finally:
            seconds = time.monotonic() - started
            outcome = step.outcome if ended_well else "failed"
            with self._lock:
                self._running.remove(step)
                self._print(f"  {name:<{NAME_WIDTH}} {outcome:<{OUTCOME_WIDTH}} {seconds:6.1f} s")

    def _refresh(self) -> None:
        with self._lock:
            self._print(None)

    def _print(self, line: str | None) -> None:
        if self._stream is None:
            return
        if self._terminal:
            self._stream.write(_CLEAR_LINE)
        if line is not None:
            self._stream.write(f"{line}\n")
        if self._terminal and self._running:
            self._stream.write(f"  … {', '.join(map(str, self._running))}")
        self._stream.flush()
