"""Serves gRPC methods on a port."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import grpc

from booking.http2 import protocol
from booking.http2.call import Call
from booking.http2.connection import Connection
from booking.http2.fields import Field
from booking.http2.protocol import IDENTITY, PREFIX_BYTES, MessageReader, Refused
from booking.http2.stream import Stream
from ticketra.log import logger

BACKLOG = 1_024
DEADLINE_INTERVAL_S = 0.1
CANCEL_LIMIT_S = 2.0  # for methods to return that were cancelled


class Server:
    """Takes the methods that generated code registers, as `grpc.aio.Server` does."""

    def __init__(
        self,
        *,
        message_limit_bytes: int,
        metadata_limit_bytes: int,
        connections_limit: int,
        calls_limit: int,
        unreadable: grpc.Status,
    ) -> None:
        """Make a server.

        Args:
            message_limit_bytes: of a request; a larger one is refused.
            metadata_limit_bytes: of a call's header list, as HTTP/2 counts it.
            connections_limit: connections at once; one more is closed.
            calls_limit: calls at once; one more is refused.
            unreadable: the status of a request that is no message of the contract.

        """
        self._message_limit = message_limit_bytes
        self._metadata_limit = metadata_limit_bytes
        self._connections_limit = connections_limit
        self._calls_limit = calls_limit
        self._unreadable = unreadable
        self._methods: dict[bytes, Any] = {}
        self._connections: set[Connection] = set()
        self._calls: set[Call] = set()
        self._is_stopping = False
        self._stopped = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._watch: asyncio.TimerHandle | None = None

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Serve the methods of a service; generated code calls this."""
        for name, handler in handlers.items():
            self._methods[f"/{service}/{name}".encode()] = handler

    def add_generic_rpc_handlers(self, _: Sequence[Any]) -> None:
        """Do nothing: generated code calls this too, with the same methods once more."""

    async def start(self, address: str) -> int:
        """Listen on `host:port` (0 takes a free port), and return the port.

        Several servers may listen on one port; the system spreads the connections over them.
        """
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            self._connect, host.strip("[]"), int(port), reuse_port=True, backlog=BACKLOG
        )
        self._watch_deadlines(loop)
        bound: int = self._listener.sockets[0].getsockname()[1]
        return bound

    async def stop(self, grace_s: float) -> None:
        """Take no new connections and calls, and wait up to `grace_s` for those that run.

        What runs then is cancelled.
        """
        if self._listener is not None:
            self._listener.close()
        self._is_stopping = True
        for connection in self._connections:
            connection.drain()
        self._note_stop()
        await self._wait_stopped(grace_s)
        for connection in list(self._connections):
            connection.close()
        await self._wait_stopped(CANCEL_LIMIT_S)
        if self._calls:
            logger.error("methods did not return", extra={"calls": len(self._calls)})
        if self._watch is not None:
            self._watch.cancel()

    async def _wait_stopped(self, limit_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._stopped.wait()

    def _note_stop(self) -> None:
        if self._is_stopping and not self._calls and not self._connections:
            self._stopped.set()

    def _watch_deadlines(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the calls whose time is over; one timer for all is cheaper than one for each."""
        self._watch = loop.call_later(DEADLINE_INTERVAL_S, self._watch_deadlines, loop)
        now = loop.time()
        for call in [call for call in self._calls if call.expires_at <= now]:
            call.expire()

    def _connect(self) -> Connection:
        return Connection(
            self._accept,
            stream_window=self._message_limit + PREFIX_BYTES,
            on_made=self._welcome,
            on_lost=self._lose,
        )

    def _welcome(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._is_stopping:  # it was accepted before the listener was closed
            connection.drain()
        elif len(self._connections) > self._connections_limit:
            connection.close()

    def _lose(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._note_stop()

    def _accept(self, stream: Stream, fields: list[Field], size: int) -> Call | None:
        header = dict(fields)
        if header.get(b":method") != b"POST":
            stream.end(protocol.NOT_POST)
            return None
        if not protocol.is_grpc(header.get(b"content-type", b"")):
            stream.end(protocol.NOT_GRPC)
            return None
        try:
            return self._call(stream, fields, header, size)
        except Refused as refused:
            stream.end(protocol.ANSWER_HEADERS + refused.block)
            return None

    def _call(
        self, stream: Stream, fields: list[Field], header: Mapping[bytes, bytes], size: int
    ) -> Call:
        if size > self._metadata_limit:
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "The call's metadata is too large.")
        handler = self._methods.get(header.get(b":path", b""))
        if handler is None:
            raise Refused(grpc.StatusCode.UNIMPLEMENTED, "There is no such method.")
        if len(self._calls) >= self._calls_limit:
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many calls at once.")
        call = Call(
            stream,
            handler,
            protocol.metadata_of(fields),
            reader=MessageReader(self._message_limit, header.get(b"grpc-encoding", IDENTITY)),
            timeout_s=protocol.timeout_s(header.get(b"grpc-timeout")),
            unreadable=self._unreadable,
            on_done=self._forget,
        )
        self._calls.add(call)
        return call

    def _forget(self, call: Call) -> None:
        self._calls.discard(call)
        self._note_stop()
