import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from local_cloud import processes_with, wait_until

from process_cloud.spawner import LINE_LIMIT_BYTES, Process, Spawner, SpawnError

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


class Output:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, lines: list[str]) -> None:
        self.lines += lines


@pytest.fixture(scope="module")
def spawner(tmp_path_factory: pytest.TempPathFactory) -> Spawner:
    return Spawner(tmp_path_factory.mktemp("spawner"))


@pytest.fixture
def output() -> Output:
    return Output()


def run(spawner: Spawner, output: Output, script: str, **environment: str) -> Process:
    return spawner.spawn(
        ["sh", "-c", script],
        environment={**ENVIRONMENT, **environment},
        cwd=Path("/"),
        sink=output,
    )


def test_output_arrives_whole_and_in_order(spawner: Spawner, output: Output) -> None:
    process = run(spawner, output, "for i in 1 2 3; do echo out$i; echo err$i >&2; done; printf x")
    assert process.wait(10)
    assert output.lines == ["out1", "err1", "out2", "err2", "out3", "err3", "x"]


def test_much_output_loses_nothing(spawner: Spawner, output: Output) -> None:
    process = run(spawner, output, "i=0; while [ $i -lt 20000 ]; do echo line$i; i=$((i+1)); done")
    assert process.wait(20)
    assert output.lines == [f"line{i}" for i in range(20000)]


def test_a_line_without_end_is_cut(spawner: Spawner, output: Output) -> None:
    length = LINE_LIMIT_BYTES * 3
    process = run(spawner, output, f"head -c {length} /dev/zero | tr '\\0' x")
    assert process.wait(10)
    assert sum(map(len, output.lines)) == length
    assert len(output.lines) > 1


@pytest.mark.parametrize(
    ("script", "returncode"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9)]
)
def test_exit_status(spawner: Spawner, output: Output, script: str, returncode: int) -> None:
    process = run(spawner, output, script)
    assert process.wait(10)
    assert process.returncode == returncode


def test_the_environment_is_exactly_what_was_given(
    spawner: Spawner, output: Output, monkeypatch
) -> None:
    monkeypatch.setenv("CANARY_OF_THE_HOST", "seen")
    process = spawner.spawn(
        ["env"], environment={**ENVIRONMENT, "A": "1"}, cwd=Path("/"), sink=output
    )
    assert process.wait(10)
    assert sorted(output.lines) == ["A=1", "PATH=/usr/bin:/bin"]


def test_it_leads_a_session_and_a_group_of_its_own(spawner: Spawner, output: Output) -> None:
    process = run(spawner, output, "sleep 60")
    assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
    process.signal_group(signal.SIGKILL)
    assert process.wait(10)


@pytest.mark.parametrize("own_group", [False, True])
def test_its_children_end_with_it(spawner: Spawner, output: Output, *, own_group: bool) -> None:
    child_script = "import os, time; print(os.getpid(), flush=True); time.sleep(61.5)"
    if own_group:
        child_script = child_script.replace("time;", "time; os.setpgid(0, 0);")
    process = run(spawner, output, f"{sys.executable} -c '{child_script}' & sleep 61.5")
    wait_until(lambda: output.lines, what="the child is up")
    os.kill(process.pid, signal.SIGKILL)  # only the leader
    assert process.wait(10)
    child = int(output.lines[0])
    wait_until(lambda: not Path(f"/proc/{child}").exists(), 5, "the child has ended")


def test_a_signal_reaches_the_whole_group(spawner: Spawner, output: Output) -> None:
    process = run(spawner, output, "trap 'echo got it; exit 3' TERM; echo up; sleep 60 & wait")
    wait_until(lambda: output.lines == ["up"])
    process.signal_group(signal.SIGTERM)
    assert process.wait(10)
    assert process.returncode == 3
    assert output.lines == ["up", "got it"]


def test_signalling_an_ended_process_does_nothing(spawner: Spawner, output: Output) -> None:
    process = run(spawner, output, "exit 0")
    assert process.wait(10)
    process.signal_group(signal.SIGKILL)


def test_what_can_not_be_started_is_said(spawner: Spawner, output: Output) -> None:
    with pytest.raises(SpawnError, match='"no-such-program"'):
        spawner.spawn(["no-such-program"], environment=ENVIRONMENT, cwd=Path("/"), sink=output)
    with pytest.raises(SpawnError, match="/no/such does not exist"):
        spawner.spawn(["true"], environment=ENVIRONMENT, cwd=Path("/no/such"), sink=output)


def test_a_thread_that_asks_may_end_without_harm(spawner: Spawner, output: Output) -> None:
    """The kernel's death signal follows the thread that forks, so callers must not be it."""
    started: list[Process] = []
    caller = threading.Thread(target=lambda: started.append(run(spawner, output, "sleep 60")))
    caller.start()
    caller.join()
    assert not started[0].wait(0.3)
    started[0].signal_group(signal.SIGKILL)
    assert started[0].wait(10)


def test_a_killed_reaper_is_replaced_and_told_everything_again(tmp_path: Path) -> None:
    directory = tmp_path / "work"
    directory.mkdir()
    host = start_host(directory, then="sys.stdin.readline(); spawn('sleep 62.5')")
    (first,) = reapers(directory)
    os.kill(first, signal.SIGKILL)
    # Only then is its end of the pipe surely closed; what is written before goes nowhere.
    wait_until(lambda: process_state(first) == "Z", what="the first one has ended")
    assert host.stdin is not None
    host.stdin.write(b"\n")
    host.stdin.flush()
    wait_until(lambda: reapers(directory) not in ([], [first]), what="another reaper")
    host.kill()
    host.wait(10)
    wait_until(lambda: processes_with(str(directory)) == [], 10, "all processes have ended")


def process_state(pid: int) -> str:
    """The state that the kernel shows for a process; Z is one that has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_working_directory_goes_even_if_nothing_was_ever_started(tmp_path: Path) -> None:
    directory = tmp_path / "work"
    directory.mkdir()
    code = "import sys; from pathlib import Path; from process_cloud.spawner import Spawner; "
    code += "Spawner(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-P", "-c", code, str(directory)], check=True, timeout=20)
    wait_until(lambda: not directory.exists(), 10, "the working directory is gone")


HOST_PROCESS = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from process_cloud.spawner import Spawner

    directory = Path(sys.argv[1])
    spawner = Spawner(directory)

    def spawn(script):
        spawner.spawn(
            ["sh", "-c", script],
            environment={"PATH": "/usr/bin:/bin", "MARK": str(directory)},
            cwd=directory,
            sink=lambda lines: None,
        )

    for script in (
        "sleep 62.5",
        "sleep 62.5 & sleep 62.5",
        "trap '' TERM HUP INT; (trap '' TERM HUP INT; sleep 62.5; sleep 62.5) & wait",
    ):
        spawn(script)
    time.sleep(0.3)
    print("up", flush=True)
    THEN
    time.sleep(60)
    """
)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_host_process_is_killed(tmp_path: Path, number: int) -> None:
    directory = tmp_path / "work"
    directory.mkdir()
    host = start_host(directory)
    assert len(processes_with(str(directory))) > 5
    host.send_signal(number)
    host.wait(10)
    wait_until(lambda: processes_with(str(directory)) == [], 10, "all processes have ended")
    wait_until(lambda: not directory.exists(), 10, "the working directory is gone")


def test_nothing_is_left_even_when_the_reaper_died_first(tmp_path: Path) -> None:
    directory = tmp_path / "work"
    directory.mkdir()
    host = start_host(directory)
    for pid in reapers(directory):
        os.kill(pid, signal.SIGKILL)
    host.kill()
    host.wait(10)
    leaders = [pid for pid in processes_with(str(directory)) if os.getsid(pid) == pid]
    wait_until(lambda: not any(map(alive, leaders)), 10, "the kernel ended the leaders")
    for pid in processes_with(str(directory)):  # grandchildren: only the reaper finds those
        os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def reapers(directory: Path) -> list[int]:
    found = processes_with(str(directory))
    return [pid for pid in found if b"reaper.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def start_host(directory: Path, then: str = "") -> "subprocess.Popen[bytes]":
    host = subprocess.Popen(
        [sys.executable, "-P", "-c", HOST_PROCESS.replace("THEN", then), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert host.stdout is not None
    assert host.stdout.readline() == b"up\n"
    return host
