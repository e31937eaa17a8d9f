"""Logs: of the servers from their files, of the deployed functions from CloudWatch Logs."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.aws import client_settings, session
from supervisor.cloud import SERVER_NAMES
from supervisor.settings import STAGE, Settings
from supervisor.tail import tail

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient

FUNCTION_NAMES = ("identity", "event", "gateway", "booking", "payment", "migrate")
LAST_LINES = 50
LOOK_BACK_S = 3600
POLL_INTERVAL_S = 0.5
SEEN_LIMIT = 10_000


class LogsError(Exception):
    """The logs that were asked for do not exist; the message says why."""


@dataclass
class FileFollower:
    """Reads what is added to a file, also after another file took its place."""

    file: Path
    _position: int = 0
    _inode: int = 0

    def last(self) -> list[str]:
        """Return the last lines, and follow from the end."""
        if self.file.exists():
            state = self.file.stat()
            self._position, self._inode = state.st_size, state.st_ino
        return tail(self.file, LAST_LINES).splitlines()

    def added(self) -> list[str]:
        """Return the whole lines that were added since the last call."""
        if not self.file.exists():
            return []
        state = self.file.stat()
        if state.st_ino != self._inode or state.st_size < self._position:
            self._position, self._inode = 0, state.st_ino
        with self.file.open("rb") as source:
            source.seek(self._position)
            whole = source.read().rpartition(b"\n")[0]
        self._position += len(whole) + 1 if whole else 0
        return whole.decode(errors="replace").splitlines()


@dataclass
class GroupFollower:
    """Reads what is added to a log group of CloudWatch Logs."""

    client: "CloudWatchLogsClient"
    group: str
    since_ms: int = field(default_factory=lambda: int((time.time() - LOOK_BACK_S) * 1000))
    _seen: dict[str, None] = field(default_factory=dict)

    def last(self) -> list[str]:
        """Return the last lines of the last hour."""
        return self.added()[-LAST_LINES:]

    def added(self) -> list[str]:
        """Return the events that were not returned before."""
        pages = self.client.get_paginator("filter_log_events").paginate(
            logGroupName=self.group, startTime=self.since_ms
        )
        fresh = []
        for page in pages:
            for event in page["events"]:
                if event["eventId"] not in self._seen:
                    self._seen[event["eventId"]] = None
                    self.since_ms = max(self.since_ms, event["timestamp"])
                    fresh.append(event["message"].rstrip("\n"))
        while len(self._seen) > SEEN_LIMIT:
            del self._seen[next(iter(self._seen))]
        return fresh


Follower = FileFollower | GroupFollower


def show(settings: Settings, names: Sequence[str], *, follow: bool) -> Iterator[str]:
    """Yield the last lines of each log, and with `follow` also what is added, without end.

    Raises:
        LogsError: a function that was named has no log yet.

    """
    followers = _followers(settings, names)
    prefix_width = max(len(name) for name, _ in followers) if len(followers) > 1 else 0
    for name, follower in followers:
        for line in follower.last():
            yield _line(name, line, prefix_width)
    while follow:
        time.sleep(POLL_INTERVAL_S)
        for name, follower in followers:
            for line in follower.added():
                yield _line(name, line, prefix_width)


def _line(name: str, line: str, prefix_width: int) -> str:
    return f"{name:<{prefix_width}} | {line}" if prefix_width else line


def _followers(settings: Settings, names: Sequence[str]) -> list[tuple[str, Follower]]:
    wanted = names or SERVER_NAMES
    found: list[tuple[str, Follower]] = [
        (name, FileFollower(settings.logs / f"{name}.log"))
        for name in wanted
        if name in SERVER_NAMES
    ]
    functions = [name for name in wanted if name in FUNCTION_NAMES]
    if functions:
        found += _groups(settings, functions)
    return found


def _groups(settings: Settings, functions: Sequence[str]) -> list[tuple[str, Follower]]:
    client = session().client("logs", **client_settings(settings))
    found: list[tuple[str, Follower]] = []
    for name in functions:
        for group in (f"/aws/lambda/ticketra-{STAGE}-{name}", f"/ecs/ticketra-{STAGE}-{name}"):
            answer = client.describe_log_groups(logGroupNamePrefix=group)
            if any(item.get("logGroupName") == group for item in answer["logGroups"]):
                found.append((name, GroupFollower(client, group)))
                break
        else:
            raise LogsError(f"{name} has no log yet; deploy it first (make deploy).")
    return found
