"""One gRPC call: what a method sees of it, and the task that runs the method."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from booking.http2 import protocol
from booking.http2.protocol import MessageReader, Metadata, Refused
from booking.http2.stream import Stream
from ticketra.log import logger

REQUEST_LIMIT_S = 30.0  # for the one message of a call to arrive

Bodies = asyncio.Queue[bytes | None]


class Call:
    """Runs one call. For the method it is the context, with what ours use of `grpc.aio`'s."""

    def __init__(
        self,
        stream: Stream,
        handler: Any,
        metadata: Metadata,
        *,
        reader: MessageReader,
        timeout_s: float | None,
        unreadable: grpc.Status,
        on_done: Callable[["Call"], None],
    ) -> None:
        self._stream = stream
        self._handler = handler
        self._metadata = metadata
        self._reader = reader
        self._unreadable = unreadable
        self._on_done = on_done
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._deadline = math.inf if timeout_s is None else now + timeout_s
        self.expires_at = min(self._deadline, now + REQUEST_LIMIT_S)
        """when to call `expire`, on the loop's clock"""
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False
        self._is_done = False
        self._is_running = False
        self._request: bytes | None = None
        self._bodies: Bodies | None = None
        if handler.request_streaming:
            self._bodies = asyncio.Queue()
            self._start(self._each_request(self._bodies))

    def invocation_metadata(self) -> Metadata:
        """Return what the caller sent beside the message."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline; None where it has none."""
        left = self._deadline - self._loop.time()
        return None if left == math.inf else max(0.0, left)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        """End the call with a status."""
        raise Refused(code, details, trailing_metadata)

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a status that was made before."""
        raise _refused(status)

    async def write(self, message: Any) -> None:
        """Send one message."""
        if self._is_done:
            return
        data = self._handler.response_serializer(message)
        if not self._has_begun:
            self._has_begun = True
            self._stream.send_headers(protocol.ANSWER_HEADERS)
        await self._stream.send_data(protocol.build_message(data))

    def receive(self, data: bytes, *, end: bool) -> None:
        """Take a part of the body."""
        if self._bodies is not None:
            if data:
                self._bodies.put_nowait(data)
            if end:
                self._bodies.put_nowait(None)
            return
        try:
            self._collect(data, end=end)
        except Refused as refused:
            self._give_up(refused.block)

    def cancel(self) -> None:
        """End the call without an answer: the caller is gone."""
        self._is_done = True
        self._interrupt()

    def expire(self) -> None:
        """End the call because its time is over."""
        details = "The request took too long." if self._task is None else "The deadline has passed."
        self._give_up(protocol.trailers(grpc.StatusCode.DEADLINE_EXCEEDED, details, ()))

    def _collect(self, data: bytes, *, end: bool) -> None:
        """Put the one message of the call together, and run the method when the body has ended."""
        for message in self._reader.feed(data):
            if self._request is not None:
                raise _not_one_message()
            self._request = message
        if end:
            self._reader.end()
            if self._request is None:
                raise _not_one_message()
            self._start(self._parsed(self._request))

    def _start(self, argument: Any) -> None:
        self.expires_at = self._deadline
        self._task = self._loop.create_task(self._run(argument))

    async def _run(self, argument: Any) -> None:
        self._is_running = True
        try:
            await self._answer(argument)
            if self._stream.blocked:  # the method has given up to wait for it
                await self._stream.sent()
            self._finish(protocol.TRAILERS_OK)
        except Refused as refused:
            self._finish(refused.block)
        except asyncio.CancelledError:
            self._finish(
                protocol.trailers(grpc.StatusCode.CANCELLED, "The call was cancelled.", ())
            )
            raise
        except Exception:  # noqa: BLE001 - the entry point: log with context, hide from the caller
            logger.exception("a call failed")
            self._finish(
                protocol.trailers(grpc.StatusCode.UNKNOWN, "Something went wrong on our side.", ())
            )
        finally:
            self._on_done(self)

    async def _answer(self, argument: Any) -> None:
        handler = self._handler
        if not handler.response_streaming:
            method = handler.stream_unary if handler.request_streaming else handler.unary_unary
            await self.write(await method(argument, self))
            return
        method = handler.stream_stream if handler.request_streaming else handler.unary_stream
        answers = method(argument, self)
        if not hasattr(answers, "aclose"):
            await answers  # it writes by itself
            return
        async with aclosing(answers):  # also where it waits for the peer to take an answer
            async for answer in answers:
                await self.write(answer)

    async def _each_request(self, bodies: Bodies) -> AsyncIterator[Any]:
        while (data := await bodies.get()) is not None:
            for message in self._reader.feed(data):
                yield self._parsed(message)
            self._stream.consumed(len(data))
        self._reader.end()

    def _parsed(self, message: bytes) -> Any:
        try:
            return self._handler.request_deserializer(message)
        except DecodeError:
            raise _refused(self._unreadable) from None

    def _give_up(self, block: bytes) -> None:
        if not self._is_done:
            self._finish(block)
            self._interrupt()

    def _interrupt(self) -> None:
        """Stop the method; where none runs, the call is over."""
        if self._task is not None:
            self._task.cancel()
        if not self._is_running:  # a task that is cancelled before its first step takes none
            self._on_done(self)

    def _finish(self, block: bytes) -> None:
        """Answer, once; the call is over when its method has returned."""
        if not self._is_done:
            self._is_done = True
            self._stream.end(block if self._has_begun else protocol.ANSWER_HEADERS + block)


def _refused(status: grpc.Status) -> Refused:
    return Refused(status.code, status.details, status.trailing_metadata or ())


def _not_one_message() -> Refused:
    return Refused(grpc.StatusCode.UNIMPLEMENTED, "The method takes one message.")
