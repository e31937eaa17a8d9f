"""A service of each kind of method, and the server that the tests talk to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from booking.http2.server import Server

WAIT_STEPS = 2_000
WAIT_STEP_S = 0.005
UNREADABLE = b"unreadable"
LIMITS = {
    "message_limit_bytes": 1_000,
    "metadata_limit_bytes": 2_000,
    "connections_limit": 100,
    "calls_limit": 10,
}


class Status:
    """A `grpc.Status`."""

    def __init__(self, code: grpc.StatusCode, details: str, metadata: Any = None) -> None:
        self.code = code
        self.details = details
        self.trailing_metadata = metadata


def _read(data: bytes) -> bytes:
    if data == UNREADABLE:
        raise DecodeError
    return data


class Echo:
    """The methods; they note what happens to them."""

    def __init__(self) -> None:
        self.running = 0
        self.cancelled = 0
        self.cleaned = 0
        self.metadata: Any = None
        self.remaining_s: float | None = None
        self.taken: list[bytes] = []
        self.proceed = asyncio.Event()
        self.clean_up = asyncio.Event()
        self.status: Any = None
        self.answer = b""

    async def Unary(self, request: bytes, context: Any) -> bytes:  # noqa: N802
        self.metadata = context.invocation_metadata()
        self.remaining_s = context.time_remaining()
        return request

    async def Fixed(self, request: bytes, context: Any) -> bytes:  # noqa: N802
        return self.answer

    async def Slow(self, request: bytes, context: Any) -> bytes:  # noqa: N802
        """Wait for `proceed`; when cancelled, wait for `clean_up`."""
        self.running += 1
        try:
            await self.proceed.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            await self.clean_up.wait()
            self.cleaned += 1
            raise
        finally:
            self.running -= 1
        return request

    async def Abort(self, request: bytes, context: Any) -> bytes:  # noqa: N802
        await context.abort_with_status(self.status)
        return request

    async def AbortWith(self, request: bytes, context: Any) -> bytes:  # noqa: N802
        await context.abort(*self.status)
        return request

    async def Break(self, request: bytes, context: Any) -> bytes:  # noqa: N802
        raise LookupError(request)

    async def Split(self, request: bytes, context: Any) -> AsyncIterator[bytes]:  # noqa: N802
        """Answer with each byte; note the clean-up."""
        self.running += 1
        try:
            for byte in request:
                yield bytes((byte,))
        finally:
            self.running -= 1

    async def Flood(self, request: bytes, context: Any) -> AsyncIterator[bytes]:  # noqa: N802
        """Answer without an end and without a pause."""
        while True:
            self.taken.append(request)
            yield request

    async def Write(self, request: bytes, context: Any) -> None:  # noqa: N802
        for byte in request:
            await context.write(bytes((byte,)))

    async def Hasty(self, request: bytes, context: Any) -> None:  # noqa: N802
        """Write each byte, and wait only for a moment until the caller takes it."""
        for byte in request:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await context.write(bytes((byte,)))

    async def Join(self, requests: AsyncIterator[bytes], context: Any) -> bytes:  # noqa: N802
        async for request in requests:
            self.taken.append(request)
        return b"".join(self.taken)

    async def Deaf(self, requests: AsyncIterator[bytes], context: Any) -> bytes:  # noqa: N802
        """Take no message before `proceed`."""
        await self.proceed.wait()
        return await self.Join(requests, context)

    async def Stubborn(self, requests: AsyncIterator[bytes], context: Any) -> bytes:  # noqa: N802
        """Take two messages after all when it is cancelled."""
        with suppress(asyncio.CancelledError):
            await self.proceed.wait()
        self.taken += [await anext(requests), await anext(requests)]
        return b""

    async def Chat(  # noqa: N802
        self, requests: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.upper()


_KINDS = {
    grpc.unary_unary_rpc_method_handler: (
        "Unary",
        "Fixed",
        "Slow",
        "Abort",
        "AbortWith",
        "Break",
    ),
    grpc.unary_stream_rpc_method_handler: ("Split", "Flood", "Write", "Hasty"),
    grpc.stream_unary_rpc_method_handler: ("Join", "Deaf", "Stubborn"),
    grpc.stream_stream_rpc_method_handler: ("Chat",),
}


class EchoServer:
    """A server with the methods of `Echo`."""

    def __init__(self, limits: dict[str, int]) -> None:
        self.echo = Echo()
        unreadable: Any = Status(grpc.StatusCode.INVALID_ARGUMENT, "unreadable")
        self.server = Server(**limits, unreadable=unreadable)
        handlers = {
            name: make(getattr(self.echo, name), _read, bytes)
            for make, names in _KINDS.items()
            for name in names
        }
        self.server.add_registered_method_handlers("test.Echo", handlers)
        self.port = 0

    @classmethod
    async def start(cls, port: int = 0, **limits: int) -> "EchoServer":
        started = cls(LIMITS | limits)
        started.port = await started.server.start(f"127.0.0.1:{port}")
        return started

    async def end(self) -> None:
        """Stop at once; nothing may be left of the calls and connections."""
        self.echo.clean_up.set()
        await self.server.stop(0)
        assert self.is_idle()

    def is_idle(self) -> bool:
        server = self.server
        return not (server._calls or server._connections or self.echo.running)

    async def idle_calls(self) -> None:
        """Wait until no call is left."""
        await eventually(lambda: not self.server._calls)


async def eventually(condition: Any) -> None:
    """Wait until something holds."""
    for _ in range(WAIT_STEPS):
        if condition():
            return
        await asyncio.sleep(WAIT_STEP_S)
    raise AssertionError("it has not come to hold")
