"""How long this invocation may still take: Lambda's limit, for whoever calls further on."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

ANSWER_MARGIN_S = 0.5  # left of the invocation's time for the answer itself

_gives_up_at: ContextVar[float] = ContextVar("gives_up_at", default=math.inf)


@contextmanager
def ends_in(remaining_ms: int) -> Iterator[None]:
    """Say what Lambda leaves of the invocation that runs inside."""
    gives_up_at = time.monotonic() + remaining_ms / 1000 - ANSWER_MARGIN_S
    token = _gives_up_at.set(gives_up_at)
    try:
        yield
    finally:
        _gives_up_at.reset(token)


def left_s() -> float:
    """Return how long a call to another service may take; without an invocation, for ever."""
    return max(0.0, _gives_up_at.get() - time.monotonic())
