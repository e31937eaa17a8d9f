"""Ships the output of processes to CloudWatch Logs in batches.

Writers never wait for CloudWatch Logs; one thread sends what has gathered. A writer that is far
ahead is held up, as with the awslogs driver's blocking mode, and only past a bound are lines
dropped, which the stream then says.
"""

import logging
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from localstack.aws.connect import connect_to
from localstack.runtime import events

LOG = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 0.5
BATCH_EVENTS_LIMIT = 10_000  # PutLogEvents
BATCH_BYTES_LIMIT = 1_048_576  # PutLogEvents
EVENT_OVERHEAD_BYTES = 26  # PutLogEvents counts these for each event
STREAM_BACKLOG_LIMIT_BYTES = 16_777_216
BACKLOG_WAIT_S = 10.0
SEND_ATTEMPTS_LIMIT = 5


@dataclass(frozen=True)
class LogTarget:
    """A log stream."""

    account_id: str
    region: str
    group: str
    stream: str

    def client(self) -> Any:
        """Return a CloudWatch Logs client for the stream's account and region."""
        return connect_to(aws_access_key_id=self.account_id, region_name=self.region).logs


class LogStream:
    """One stream; lines become events in the order in which they were written."""

    def __init__(self, target: LogTarget, shipper: "LogShipper") -> None:
        self.target = target
        self._shipper = shipper
        self._events: deque[dict[str, Any]] = deque()
        self._backlog_bytes = 0
        self._room = threading.Condition()
        self._send_lock = threading.Lock()
        self._dropped = 0

    def write(self, lines: list[str]) -> None:
        """Add lines; empty ones are left out, as CloudWatch Logs takes none."""
        now_ms = int(time.time() * 1000)
        new = [{"timestamp": now_ms, "message": line} for line in lines if line]
        with self._room:
            if not self._room.wait_for(self._has_room, BACKLOG_WAIT_S):
                self._dropped += len(new)
                return
            if self._dropped:
                message = f"[{self._dropped} lines dropped: CloudWatch Logs did not keep up]"
                new.insert(0, {"timestamp": now_ms, "message": message})
                self._dropped = 0
            self._events.extend(new)
            self._backlog_bytes += sum(map(_size, new))
        self._shipper.notice(self)

    def close(self) -> None:
        """Send what is left."""
        self.flush()
        self._shipper.forget(self)

    def flush(self) -> None:
        """Send everything written so far.

        Not while LocalStack stops: it keeps nothing, and a request that is still being served when
        its server ends keeps the whole process from ending.
        """
        with self._send_lock:
            while batch := self._take():
                if not events.infra_stopping.is_set():
                    self._send(batch)

    def _has_room(self) -> bool:
        return self._backlog_bytes < STREAM_BACKLOG_LIMIT_BYTES

    def _take(self) -> list[dict[str, Any]]:
        batch: list[dict[str, Any]] = []
        size = 0
        with self._room:
            while self._events and len(batch) < BATCH_EVENTS_LIMIT:
                size += _size(self._events[0])
                if batch and size > BATCH_BYTES_LIMIT:
                    break
                batch.append(self._events.popleft())
            self._backlog_bytes -= sum(map(_size, batch))
            self._room.notify_all()
        return batch

    def _send(self, batch: list[dict[str, Any]]) -> None:
        for attempt in range(1, SEND_ATTEMPTS_LIMIT + 1):
            try:
                self._put(batch)
            except (ClientError, BotoCoreError) as error:
                LOG.warning("Log stream %s, attempt %d: %s", self.target.stream, attempt, error)
                time.sleep(0.1 * attempt)
            else:
                return
        with self._room:
            self._dropped += len(batch)

    def _put(self, batch: list[dict[str, Any]]) -> None:
        client = self.target.client()
        names = {"logGroupName": self.target.group, "logStreamName": self.target.stream}
        try:
            client.put_log_events(**names, logEvents=batch)
        except client.exceptions.ResourceNotFoundException:
            create_group(client, self.target.group)
            with suppress(client.exceptions.ResourceAlreadyExistsException):
                client.create_log_stream(**names)
            client.put_log_events(**names, logEvents=batch)


class LogShipper:
    """Sends the streams' lines every `FLUSH_INTERVAL_S`."""

    def __init__(self) -> None:
        self._streams: set[LogStream] = set()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="log-shipper", daemon=True).start()

    def stream(self, target: LogTarget) -> LogStream:
        """Open a stream; its group is created with the first line if it does not exist."""
        return LogStream(target, self)

    def notice(self, stream: LogStream) -> None:
        """Remember that a stream has lines to send."""
        with self._changed:
            self._streams.add(stream)
            self._changed.notify()

    def forget(self, stream: LogStream) -> None:
        """Drop a stream that was closed."""
        with self._changed:
            self._streams.discard(stream)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._streams)
            time.sleep(FLUSH_INTERVAL_S)  # gathers a batch
            with self._changed:
                streams, self._streams = self._streams, set()
            for stream in streams:
                stream.flush()


def _size(event: dict[str, Any]) -> int:
    return len(event["message"].encode()) + EVENT_OVERHEAD_BYTES


def create_group(client: Any, group: str) -> None:
    """Create a log group unless it exists."""
    with suppress(client.exceptions.ResourceAlreadyExistsException):
        client.create_log_group(logGroupName=group)
