import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from supervisor import processes

SLEEPER = [sys.executable, "-c", "import time; print('awake', flush=True); time.sleep(600)"]


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[psutil.Process]:
    """A process that carries the marker of the server `redis` in the instance `tmp_path`."""
    environment = {**os.environ, **processes.marker(tmp_path, "redis")}
    with subprocess.Popen(SLEEPER, env=environment, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield psutil.Process(child.pid)
        child.kill()


@pytest.mark.parametrize(
    ("server", "expected"), [(None, True), ("redis", True), ("postgres", False)]
)
def test_the_marker_names_instance_and_server(
    tmp_path: Path, server: str | None, expected: bool
) -> None:
    environment = processes.marker(tmp_path, "redis")

    assert processes.carries(environment, tmp_path, server) is expected
    assert not processes.carries(environment, tmp_path / "other", server)
    assert not processes.carries({}, tmp_path, server)


def test_marked_processes_are_found(tmp_path: Path, sleeper: psutil.Process) -> None:
    assert processes.marked(tmp_path) == [sleeper]
    assert processes.marked(tmp_path, "redis") == [sleeper]
    assert processes.marked(tmp_path, "postgres") == []
    assert processes.marked(tmp_path.parent) == []


def test_a_pid_file_is_believed_only_for_the_server_itself(
    tmp_path: Path, sleeper: psutil.Process
) -> None:
    pid_file = tmp_path / "redis.pid"
    pid_file.write_text(str(sleeper.pid))
    reused = tmp_path / "reused.pid"
    reused.write_text(str(os.getpid()))

    assert processes.main_process(pid_file, tmp_path, "redis") == sleeper
    assert processes.main_process(pid_file, tmp_path, "postgres") is None
    assert processes.main_process(reused, tmp_path, "redis") is None
    assert processes.main_process(tmp_path / "none.pid", tmp_path, "redis") is None


def test_one_in_the_middle_of_an_exec_runs(
    tmp_path: Path, sleeper: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid_file = tmp_path / "redis.pid"
    pid_file.write_text(str(sleeper.pid))
    # What the kernel shows while it replaces a program: no variables, and then the new ones.
    shown = iter([{}, {}, sleeper.environ()])
    monkeypatch.setattr(psutil.Process, "environ", lambda _: next(shown))

    assert processes.main_process(pid_file, tmp_path, "redis") == sleeper


def test_one_that_ended_and_was_not_collected_is_gone(
    tmp_path: Path, sleeper: psutil.Process
) -> None:
    assert processes.kill([sleeper]) == []

    assert sleeper.status() == psutil.STATUS_ZOMBIE  # the fixture collects it
    assert not processes.is_alive(sleeper)
    assert processes.marked(tmp_path) == []


def test_one_that_appears_after_an_empty_look_is_killed_too(sleeper: psutil.Process) -> None:
    looks = iter([[], [sleeper], [], []])

    assert processes.kill_all(lambda: next(looks)) == []

    assert not processes.is_alive(sleeper)


def test_a_launched_process_is_detached_and_sees_only_what_it_is_given(tmp_path: Path) -> None:
    pid_file = tmp_path / "a server.pid"
    os.environ["TICKETRA_TEST_CANARY"] = "leaked"
    try:
        processes.launch(
            ["/bin/sleep", "600"],
            environment={"PATH": "/usr/bin:/bin", **processes.marker(tmp_path, "redis")},
            directory=tmp_path,
            log=tmp_path / "log",
            pid_file=pid_file,
        )
    finally:
        del os.environ["TICKETRA_TEST_CANARY"]
    process = processes.main_process(pid_file, tmp_path, "redis")
    assert process is not None
    try:
        assert process.pid not in {child.pid for child in psutil.Process().children()}
        assert os.getsid(process.pid) != os.getsid(0)
        assert "TICKETRA_TEST_CANARY" not in process.environ()
    finally:
        assert processes.kill([process]) == []


def test_a_program_that_is_missing_ends_at_once_with_a_reason_in_the_log(tmp_path: Path) -> None:
    pid_file = tmp_path / "server.pid"

    processes.launch(
        ["/nowhere/server"],
        environment={"PATH": "/usr/bin:/bin"},
        directory=tmp_path,
        log=tmp_path / "log",
        pid_file=pid_file,
    )
    processes.wait_gone(processes.marked(tmp_path), 5)

    assert processes.main_process(pid_file, tmp_path, "redis") is None
    assert "/nowhere/server" in (tmp_path / "log").read_text()


def test_a_log_past_its_limit_is_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LOG_LIMIT_BYTES", 3)
    log = tmp_path / "redis.log"
    log.write_text("123")
    processes.keep_log_bounded(log)
    assert log.exists()

    log.write_text("1234")
    processes.keep_log_bounded(log)

    assert not log.exists()
    assert (tmp_path / "redis.log.1").read_text() == "1234"
