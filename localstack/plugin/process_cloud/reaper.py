"""Ends what LocalStack started once LocalStack itself is gone, however it went.

Runs as a process of its own, on the standard library only. Its standard input is a pipe that only
LocalStack holds: lines `start <session>` and `end <session>` say which sessions live, and the end
of the file says that LocalStack is gone. Then every process of a live session is killed,
grandchildren too, and the working directory given as argument is removed.
"""

import os
import shutil
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

SWEEPS_LIMIT = 5  # a process may fork while its session is being killed


def live_sessions(lines: Iterable[str]) -> set[int]:
    """Return the sessions that were started and have not ended when the lines end."""
    sessions: set[int] = set()
    for line in lines:
        word, _, number = line.partition(" ")
        if word == "start":
            sessions.add(int(number))
        else:
            sessions.discard(int(number))
    return sessions


def processes_of(sessions: set[int]) -> list[int]:
    """Return the ids of all processes in the sessions."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text(errors="replace")
        except OSError:
            continue
        state, _parent, _group, session = stat[stat.rindex(")") + 2 :].split()[:4]
        if state != "Z" and int(session) in sessions:
            found.append(int(entry.name))
    return found


def kill_sessions(sessions: set[int]) -> None:
    """Kill every process of the sessions."""
    for _ in range(SWEEPS_LIMIT):
        processes = processes_of(sessions)
        if not processes:
            return
        for process in processes:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue


def main() -> None:
    """Wait for the end of LocalStack, then clean up behind it."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    kill_sessions(live_sessions(sys.stdin))
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
