"""What the platform says about an invocation: log lines and error documents, as AWS words them."""

import json
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path

from process_cloud.logs import LogStream

TAIL_LIMIT_CHARS = 65_536  # far more than the 4 KB that an invocation may ask for


class InvocationLog:
    """Passes a function's lines to CloudWatch Logs and keeps the tail of the current invocation."""

    def __init__(self, stream: LogStream) -> None:
        self._stream = stream
        self._tail: list[str] = []
        self._tail_chars = 0
        self._lock = threading.Lock()

    def write(self, lines: list[str]) -> None:
        """Add lines of the function or of the platform."""
        self._stream.write(lines)
        with self._lock:
            self._tail += lines
            self._tail_chars += sum(map(len, lines))
            while self._tail_chars > TAIL_LIMIT_CHARS and len(self._tail) > 1:
                self._tail_chars -= len(self._tail.pop(0))

    def begin(self, request_id: str, version: str) -> None:
        """Start an invocation, and with it a new tail."""
        with self._lock:
            self._tail, self._tail_chars = [], 0
        self.write([f"START RequestId: {request_id} Version: {version}"])

    def tail(self) -> str:
        """Return the current tail."""
        with self._lock:
            return "".join(f"{line}\n" for line in self._tail)

    def close(self) -> None:
        """Send the last lines."""
        self._stream.close()


def error_document(error_type: str, message: str) -> bytes:
    """Return the payload of a failed invocation."""
    return json.dumps({"errorType": error_type, "errorMessage": message}).encode()


def exit_message(returncode: int, request_id: str) -> str:
    """Say how the runtime ended."""
    if returncode < 0:
        how = f" with error: signal: {signal.Signals(-returncode).name.removeprefix('SIG').lower()}"
    elif returncode > 0:
        how = f" with error: exit status {returncode}"
    else:
        how = " without providing a reason"
    return f"RequestId: {request_id} Error: Runtime exited{how}"


def timeout_line(request_id: str, timeout_s: float) -> str:
    """Return what is logged when an invocation takes too long."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"{now} {request_id} Task timed out after {timeout_s:.2f} seconds"


def init_report(init_ms: float, error_type: str) -> str:
    """Return what is logged when the init failed."""
    parts = [f"INIT_REPORT Init Duration: {init_ms:.2f} ms", "Phase: init", "Status: error"]
    return "\t".join([*parts, f"Error Type: {error_type}"])


def report(
    request_id: str, *, duration_ms: float, init_ms: float | None, size_mb: int, used_mb: int
) -> str:
    """Return the REPORT line; `init_ms` only for the invocation that began with an init."""
    parts = [
        f"REPORT RequestId: {request_id}",
        f"Duration: {duration_ms:.2f} ms",
        f"Billed Duration: {int(duration_ms) + 1} ms",
        f"Memory Size: {size_mb} MB",
        f"Max Memory Used: {used_mb} MB",
    ]
    if init_ms is not None:
        parts.append(f"Init Duration: {init_ms:.2f} ms")
    return "\t".join(parts)


def peak_memory_mb(pid: int) -> int:
    """Return the most memory that a process held, 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(peaks[0]) // 1024 if peaks else 0
