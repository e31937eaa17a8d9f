"""The Lambda Runtime API (version 2018-06-01) for one execution environment.

The thread that invokes drives the sockets itself: it answers the runtime's pending `next`, then
reads the runtime's response. So a warm invocation costs no thread switch inside LocalStack.
"""

import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

PATH_PREFIX = "/2018-06-01/runtime"
HOST = "127.0.0.1"
IO_TIMEOUT_S = 10.0
BACKLOG = 8
HEADER_LINE_LIMIT_BYTES = 65_536
RESPONSE_LIMIT_BYTES = 6_291_556  # Lambda's limit for a synchronous response


@dataclass(frozen=True)
class Ready:
    """The runtime has finished its init and waits for an invocation."""


@dataclass(frozen=True)
class InitFailed:
    """The runtime reports that its init failed; `payload` is its error document."""

    payload: bytes


@dataclass(frozen=True)
class Answered:
    """The runtime's response to an invocation, or its error document."""

    request_id: str
    payload: bytes
    is_error: bool


@dataclass(frozen=True)
class TooLarge:
    """The runtime's response is longer than Lambda accepts."""

    request_id: str


@dataclass(frozen=True)
class Exited:
    """The runtime's process has ended."""


@dataclass(frozen=True)
class TimedOut:
    """Nothing came before the deadline."""


Event = Ready | InitFailed | Answered | TooLarge | Exited | TimedOut


@dataclass(frozen=True)
class Request:
    """An HTTP request of the runtime; `body` is None if it was longer than accepted."""

    method: str
    path: str
    body: bytes | None


class Connection:
    """One keep-alive HTTP/1.1 connection; its client sends the next request after an answer."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(IO_TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._reader: BinaryIO = sock.makefile("rb")

    def receive(self) -> Request | None:
        """Read a request; None at the end of the connection."""
        line = self._reader.readline(HEADER_LINE_LIMIT_BYTES)
        if not line:
            return None
        method, path, _ = line.decode("latin-1").split(" ", 2)
        headers = self._headers()
        if "100-continue" in headers.get("expect", "").lower():
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return Request(method, path, self._body(headers))

    def send(self, status: str, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        """Send an answer."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.sock.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()
        self.sock.close()

    def _headers(self) -> dict[str, str]:
        headers = {}
        while line := self._reader.readline(HEADER_LINE_LIMIT_BYTES).strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return headers

    def _body(self, headers: dict[str, str]) -> bytes | None:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            pieces = self._chunks()
        else:
            pieces = iter([self._reader.read(int(headers.get("content-length", 0)))])
        body = bytearray()
        too_large = False
        for piece in pieces:
            too_large = too_large or len(body) + len(piece) > RESPONSE_LIMIT_BYTES
            if not too_large:
                body += piece
        return None if too_large else bytes(body)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._reader.readline().split(b";")[0], 16):
            yield self._reader.read(size)
            self._reader.readline()
        while self._reader.readline().strip():
            pass  # trailers


class RuntimeApi:
    """Serves one runtime process; `pidfd` becomes readable when that process has ended.

    Its methods are called by one thread at a time.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0), backlog=BACKLOG)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._waiting: Connection | None = None  # its runtime is blocked in `next`
        self._pidfd: int | None = None

    @property
    def address(self) -> str:
        """Return host:port for AWS_LAMBDA_RUNTIME_API."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def attach(self, pidfd: int) -> None:
        """Watch the process that was started to talk to this API."""
        self._pidfd = pidfd
        self._selector.register(pidfd, selectors.EVENT_READ)

    def wait_init(self) -> Event:
        """Wait for Ready, InitFailed or Exited; whoever bounds the wait ends the process."""
        return self._next_event(None)

    def invoke(self, headers: dict[str, str], payload: bytes, deadline: float) -> Event:
        """Hand over an invocation and wait for its outcome until `deadline` (time.monotonic)."""
        while self._waiting is None:
            event = self._next_event(deadline)
            if not isinstance(event, Ready):
                return event
        connection, self._waiting = self._waiting, None
        try:
            connection.send("200 OK", headers, payload)
        except OSError:
            return Exited()
        while True:
            event = self._next_event(deadline)
            if not isinstance(event, Ready):
                return event

    def close(self) -> None:
        """Close all sockets; may be called again."""
        registered = self._selector.get_map()
        for key in list(registered.values()) if registered else []:
            if isinstance(key.data, Connection):
                key.data.close()
        self._selector.close()
        self._listener.close()

    def _next_event(self, deadline: float | None) -> Event:
        while True:
            timeout = None if deadline is None else max(deadline - time.monotonic(), 0)
            ready = self._selector.select(timeout)
            if not ready:
                return TimedOut()
            exited = any(key.fd == self._pidfd for key, _ in ready)
            if event := self._serve_ready(ready):
                return event
            if exited:
                return self._last_words()

    def _last_words(self) -> Event:
        """Read what the runtime said before it ended."""
        while True:
            ready = [item for item in self._selector.select(0) if item[0].fd != self._pidfd]
            if not ready:
                return Exited()
            if event := self._serve_ready(ready):
                return event

    def _serve_ready(self, ready: list[tuple[selectors.SelectorKey, int]]) -> Event | None:
        event: Event | None = None
        for key, _ in ready:
            if key.fileobj is self._listener:
                sock, _address = self._listener.accept()
                self._selector.register(sock, selectors.EVENT_READ, Connection(sock))
            elif isinstance(key.data, Connection):
                event = self._serve(key.data) or event
        return event

    def _serve(self, connection: Connection) -> Event | None:
        try:
            request = connection.receive()
            if request is not None:
                return self._dispatch(connection, request)
        except (OSError, ValueError):  # cut off in the middle of a request
            request = None
        self._selector.unregister(connection.sock)
        connection.close()
        return None

    def _dispatch(self, connection: Connection, request: Request) -> Event | None:
        parts = request.path.removeprefix(PATH_PREFIX).strip("/").split("/")
        match request.method, *parts:
            case "GET", "invocation", "next":
                self._waiting = connection
                return Ready()
            case "POST", "init", "error":
                connection.send("202 Accepted")
                return InitFailed(request.body or b"{}")
            case "POST", "invocation", request_id, "response" | "error":
                return self._answered(connection, request, request_id, is_error=parts[2] == "error")
        connection.send("404 Not Found")
        return None

    def _answered(
        self, connection: Connection, request: Request, request_id: str, *, is_error: bool
    ) -> Event:
        if request.body is None:
            connection.send("413 Request Entity Too Large")
            return TooLarge(request_id)
        connection.send("202 Accepted")
        return Answered(request_id, request.body, is_error)
