"""What a task runs beside its work, on its event loop."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ticketra.heartbeat import HEARTBEAT_INTERVAL_S, Heartbeat, heartbeat_file
from ticketra.log import logger


def named(name: str, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Start `work`; its name says in the log which part ended."""
    return asyncio.get_running_loop().create_task(work, name=name)


async def beat(is_stuck: Callable[[], bool] = lambda: False) -> None:
    """Say again and again that the event loop turns, except while `is_stuck`; never returns."""
    heartbeat = Heartbeat(heartbeat_file())
    was_stuck = False
    while True:
        stuck = is_stuck()
        if stuck and not was_stuck:
            logger.error("the task is stuck: it counts as dead until it goes on")
        if not stuck:
            heartbeat.beat()
        was_stuck = stuck
        await asyncio.sleep(HEARTBEAT_INTERVAL_S)
