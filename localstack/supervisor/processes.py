"""Server processes: started detached, found again by what they carry, stopped within a bound.

Nothing is remembered that could be wrong. Each process carries the instance and the server that it
belongs to in its environment, and a pid file only says where to look first.
"""

import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

INSTANCE_VARIABLE = "TICKETRA_INSTANCE"
SERVER_VARIABLE = "TICKETRA_SERVER"
FINGERPRINT_VARIABLE = "TICKETRA_FINGERPRINT"

LAUNCH_TIMEOUT_S = 10
EXEC_TIMEOUT_S = 1
KILL_TIMEOUT_S = 5
KILL_ROUND_LIMIT = 20
QUIET_ROUNDS = 2
LOG_LIMIT_BYTES = 20_000_000
_POLL_INTERVAL_S = 0.02

# The shell writes its own process id and then becomes the server, so that there is no moment at
# which a server runs that no pid file names.
_LAUNCHER = 'printf %s "$$" > "$1.partial" && mv "$1.partial" "$1" && shift && exec "$@"'


class LaunchError(Exception):
    """A server's program could not be started."""


def launch(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    directory: Path,
    log: Path,
    pid_file: Path,
) -> None:
    """Start `command` detached from this process and its terminal, with `environment` only.

    Returns once `pid_file` names the process.

    Raises:
        LaunchError: it could not be started.

    """
    keep_log_bounded(log)
    pid_file.unlink(missing_ok=True)
    words = ["setsid", "--fork", "/bin/sh", "-c", _LAUNCHER, "launch", pid_file, *command]
    with log.open("ab") as output:
        done = subprocess.run(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=dict(environment),
            timeout=LAUNCH_TIMEOUT_S,
            check=False,
        )
    deadline = time.monotonic() + LAUNCH_TIMEOUT_S
    while done.returncode == 0 and time.monotonic() < deadline:
        if pid_file.exists():
            return
        time.sleep(_POLL_INTERVAL_S)
    raise LaunchError(f"{command[0]} could not be started, see {log}")


def keep_log_bounded(log: Path) -> None:
    """Move a log past its limit aside, over the one that was moved before it."""
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))


def marker(instance: Path, server: str) -> dict[str, str]:
    """Return the variables that a process of `server` carries."""
    return {INSTANCE_VARIABLE: str(instance), SERVER_VARIABLE: server}


def carries(environment: Mapping[str, str], instance: Path, server: str | None = None) -> bool:
    """Tell whether a process with `environment` is of `instance` (and of `server`, where given)."""
    if environment.get(INSTANCE_VARIABLE) != str(instance):
        return False
    return server is None or environment.get(SERVER_VARIABLE) == server


def marked(instance: Path, server: str | None = None) -> list[psutil.Process]:
    """Return every live process that carries the marker, oldest first."""
    found = [p for p in psutil.process_iter() if is_marked(p, instance, server)]
    return sorted(found, key=lambda process: process.pid)


def is_marked(process: psutil.Process, instance: Path, server: str | None = None) -> bool:
    """Tell whether `process` lives and carries the marker."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and carries(
            process.environ(), instance, server
        )
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def main_process(pid_file: Path, instance: Path, server: str) -> psutil.Process | None:
    """Return the process that `pid_file` names, if it lives and is really that server."""
    try:
        process = psutil.Process(int(pid_file.read_text()))
        environment = environment_of(process)
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return process if carries(environment, instance, server) and is_alive(process) else None


def environment_of(process: psutil.Process) -> dict[str, str]:
    """Return its variables; wait out an exec, during which the kernel shows none."""
    deadline = time.monotonic() + EXEC_TIMEOUT_S
    while not (found := process.environ()) and is_alive(process) and time.monotonic() < deadline:
        time.sleep(_POLL_INTERVAL_S)
    return found


def descendants(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the live processes below `processes`."""
    below: dict[int, psutil.Process] = {}
    for process in processes:
        try:
            below |= {child.pid: child for child in process.children(recursive=True)}
        except psutil.NoSuchProcess:
            continue
    return list(below.values())


def working_in(directory: Path, program: str) -> list[psutil.Process]:
    """Return the processes of the program named `program` whose directory is `directory`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() == program and process.cwd() == str(directory):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each process that is still there."""
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def wait_gone(processes: Iterable[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until the processes have ended; return those that have not after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    alive = [process for process in processes if is_alive(process)]
    while alive and time.monotonic() < deadline:
        time.sleep(_POLL_INTERVAL_S)
        alive = [process for process in alive if is_alive(process)]
    return alive


def is_alive(process: psutil.Process) -> bool:
    """Tell whether it runs; one that ended and that nobody has collected does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Kill the processes; return those that are there even after that."""
    targets = list(processes)
    send(targets, signal.SIGKILL)
    return wait_gone(targets, KILL_TIMEOUT_S)


def kill_all(find: Callable[[], Iterable[psutil.Process]]) -> list[psutil.Process]:
    """Kill what `find` returns until it returns nothing; return what is there even after that.

    One look is not enough: a process that makes itself a daemon ends and leaves a child that was
    not yet there when the look began.
    """
    quiet = 0
    for _ in range(KILL_ROUND_LIMIT):
        found = list(find())
        quiet = 0 if found else quiet + 1
        if quiet == QUIET_ROUNDS:
            return []
        kill(found)
        time.sleep(_POLL_INTERVAL_S)
    return list(find())


def memory_bytes(process: psutil.Process) -> int:
    """Return the resident memory of a process and of all below it."""
    total = 0
    for part in (process, *descendants([process])):
        try:
            total += part.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
