import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ticketra
from ticketra.heartbeat import (
    HEARTBEAT_AGE_LIMIT_S,
    HEARTBEAT_INTERVAL_S,
    Heartbeat,
    heartbeat_file,
    is_alive,
)

COMMON_LAYER = Path(ticketra.__file__).parents[1]


def test_a_task_that_never_beat_is_not_alive(tmp_path: Path) -> None:
    assert not is_alive(tmp_path / "missing", time.time())


def test_a_beat_is_good_for_a_while(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    Heartbeat(path).beat()
    beaten_at_s = path.stat().st_mtime
    assert is_alive(path, beaten_at_s + HEARTBEAT_AGE_LIMIT_S)
    assert not is_alive(path, beaten_at_s + HEARTBEAT_AGE_LIMIT_S + 0.1)


def test_beats_that_follow_closely_touch_the_file_once(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    clock_s = 0.0
    heartbeat = Heartbeat(path, monotonic=lambda: clock_s)
    heartbeat.beat()
    os.utime(path, (0, 0))
    clock_s = HEARTBEAT_INTERVAL_S / 2
    heartbeat.beat()
    assert path.stat().st_mtime == 0
    clock_s = HEARTBEAT_INTERVAL_S
    heartbeat.beat()
    assert path.stat().st_mtime > 0


@pytest.mark.parametrize(("age_s", "exit_code"), [(0, 0), (HEARTBEAT_AGE_LIMIT_S * 2, 1)])
def test_the_command_answers_with_its_exit_code(
    tmp_path: Path, age_s: float, exit_code: int
) -> None:
    path = tmp_path / heartbeat_file().name
    path.touch()
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    command = [
        sys.executable,
        "-S",
        "-m",
        "ticketra.heartbeat",
    ]  # -S: nothing but the standard library
    environment = {"TMPDIR": str(tmp_path), "PYTHONPATH": str(COMMON_LAYER)}
    assert subprocess.run(command, env=environment, check=False).returncode == exit_code
