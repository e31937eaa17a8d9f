"""One gRPC call: what a method sees of it, and the task that runs the method."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from booking.http2 import protocol
from booking.http2.connection import Stream
from booking.http2.protocol import MessageReader, Metadata, Refused
from ticketra.log import logger

Requests = asyncio.Queue[bytes | None]


class Call:
    """Runs one call. For the method it is the context, with what ours use of `grpc.aio`'s."""

    def __init__(
        self,
        stream: Stream,
        handler: Any,
        header: Mapping[bytes, bytes],
        *,
        reader: MessageReader,
        timeout_s: float | None,
        unreadable: grpc.Status,
        on_done: Callable[["Call"], None],
    ) -> None:
        self._stream = stream
        self._handler = handler
        self._header = header
        self._reader = reader
        self._unreadable = unreadable
        self._on_done = on_done
        self._loop = asyncio.get_running_loop()
        self.deadline = math.inf if timeout_s is None else self._loop.time() + timeout_s
        """on the loop's clock"""
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False
        self._is_done = False
        self._request: bytes | None = None
        self._requests: Requests | None = None
        if handler.request_streaming:
            self._requests = asyncio.Queue()
            self._start(self._each_request(self._requests))

    def invocation_metadata(self) -> Metadata:
        """Return what the caller sent beside the message."""
        return protocol.metadata_of(self._header)

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline; None where it has none."""
        left = self.deadline - self._loop.time()
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
        if not self._has_begun:
            self._has_begun = True
            self._stream.send_headers(protocol.ANSWER_HEADERS)
        data = self._handler.response_serializer(message)
        await self._stream.send_data(protocol.build_message(data))

    def receive(self, data: bytes, *, end: bool) -> None:
        """Take a part of the body."""
        try:
            messages = self._reader.feed(data)
            if end:
                self._reader.end()
            if self._requests is None:
                self._collect(messages, end=end)
            else:
                _queue(self._requests, messages, end=end)
        except Refused as refused:
            self._give_up(refused.code, refused.details, refused.metadata)

    def cancel(self) -> None:
        """End the call without an answer: the caller is gone."""
        self._set_done()
        if self._task is not None:
            self._task.cancel()

    def expire(self) -> None:
        """End the call because its deadline has passed."""
        self._give_up(grpc.StatusCode.DEADLINE_EXCEEDED, "The deadline of the call has passed.")

    def _collect(self, messages: Sequence[bytes], *, end: bool) -> None:
        for message in messages:
            if self._request is not None:
                raise Refused(grpc.StatusCode.UNIMPLEMENTED, "The method takes one message.")
            self._request = message
        if not end:
            return
        if self._request is None:
            raise Refused(grpc.StatusCode.UNIMPLEMENTED, "The method takes one message.")
        self._start(self._parsed(self._request))

    def _start(self, argument: Any) -> None:
        self._task = self._loop.create_task(self._run(argument))

    async def _run(self, argument: Any) -> None:
        try:
            await self._answer(argument)
        except Refused as refused:
            self._finish(refused.code, refused.details, refused.metadata)
        except asyncio.CancelledError:
            self._finish(grpc.StatusCode.CANCELLED, "The call was cancelled.")
            raise
        except Exception:  # noqa: BLE001 - the entry point: log with context, hide from the caller
            logger.exception("a call failed")
            self._finish(grpc.StatusCode.UNKNOWN, "Something went wrong on our side.")
        else:
            self._finish(grpc.StatusCode.OK)

    async def _answer(self, argument: Any) -> None:
        handler = self._handler
        if not handler.response_streaming:
            method = handler.stream_unary if handler.request_streaming else handler.unary_unary
            await self.write(await method(argument, self))
            return
        method = handler.stream_stream if handler.request_streaming else handler.unary_stream
        answers = method(argument, self)
        if not hasattr(answers, "__aiter__"):
            await answers  # it writes by itself
            return
        async for answer in answers:
            await self.write(answer)

    async def _each_request(self, queue: Requests) -> AsyncIterator[Any]:
        while (message := await queue.get()) is not None:
            self._stream.consumed(len(message) + protocol.PREFIX_BYTES)
            yield self._parsed(message)

    def _parsed(self, message: bytes) -> Any:
        try:
            return self._handler.request_deserializer(message)
        except DecodeError:
            raise _refused(self._unreadable) from None

    def _give_up(self, code: grpc.StatusCode, details: str, metadata: Metadata = ()) -> None:
        self._finish(code, details, metadata)
        if self._task is not None:
            self._task.cancel()

    def _finish(self, code: grpc.StatusCode, details: str = "", metadata: Metadata = ()) -> None:
        if self._is_done:
            return
        self._set_done()
        ok = code is grpc.StatusCode.OK
        block = protocol.TRAILERS_OK if ok else protocol.trailers(code, details, metadata)
        self._stream.end(block if self._has_begun else protocol.ANSWER_HEADERS + block)

    def _set_done(self) -> None:
        if self._is_done:
            return
        self._is_done = True
        self._on_done(self)


def _refused(status: grpc.Status) -> Refused:
    return Refused(status.code, status.details, tuple(status.trailing_metadata or ()))


def _queue(queue: Requests, messages: Sequence[bytes], *, end: bool) -> None:
    for message in messages:
        queue.put_nowait(message)
    if end:
        queue.put_nowait(None)
