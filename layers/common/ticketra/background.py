"""What a task runs beside its work, on its event loop."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from ticketra.heartbeat import HEARTBEAT_INTERVAL_S, Heartbeat, heartbeat_file


def named(name: str, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Start `work`; its name says in the log which part ended."""
    return asyncio.get_running_loop().create_task(work, name=name)


async def beat() -> None:
    """Say again and again that the event loop turns; never returns."""
    heartbeat = Heartbeat(heartbeat_file())
    while True:
        heartbeat.beat()
        await asyncio.sleep(HEARTBEAT_INTERVAL_S)
