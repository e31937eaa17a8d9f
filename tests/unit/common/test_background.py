"""A task beats while it gets on, and not while it is stuck."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.common.logs import Logs
from ticketra import background, heartbeat


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - whatever it is
            await asyncio.sleep(0)


async def test_who_is_stuck_does_not_beat_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (background, heartbeat):
        monkeypatch.setattr(module, "HEARTBEAT_INTERVAL_S", 0)
    path = tmp_path / "heartbeat"
    monkeypatch.setattr(background, "heartbeat_file", lambda: path)
    stuck, asked = False, 0

    def is_stuck() -> bool:
        nonlocal asked
        asked += 1
        return stuck

    async def is_touched() -> bool:
        os.utime(path, (0, 0))
        before = asked
        await until(lambda: asked > before + 2)
        return path.stat().st_mtime > 0

    logs = Logs(monkeypatch)
    beating = background.named("beat", background.beat(is_stuck))
    await until(lambda: asked)
    assert await is_touched()
    stuck = True
    assert not await is_touched()
    stuck = False
    assert await is_touched()
    beating.cancel()
    assert len(logs.lines("ERROR")) == 1


async def test_who_has_nothing_to_be_stuck_with_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "heartbeat"
    monkeypatch.setattr(background, "heartbeat_file", lambda: path)
    beating = background.named("beat", background.beat())
    await until(path.exists)
    beating.cancel()
