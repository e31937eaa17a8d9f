"""One HTTP/2 stream: what a call knows of its connection, and the connection of its call."""

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from booking.http2.connection import Connection


class Receiver(Protocol):
    """Takes what arrives on one stream."""

    def receive(self, data: bytes, *, end: bool) -> None: ...  # noqa: D102
    def cancel(self) -> None: ...  # noqa: D102


class Stream:
    """One stream: the way back to the peer."""

    __slots__ = (
        "_connection",
        "blocked",
        "ended_there",
        "held",
        "id",
        "receive_window",
        "receiver",
        "send_window",
        "waiter",
    )

    def __init__(
        self, connection: "Connection", stream_id: int, send_window: int, receive_window: int
    ) -> None:
        self._connection = connection
        self.id = stream_id
        self.send_window = send_window
        self.receive_window = receive_window
        self.held = 0
        """bytes that came before the end of the body, and were not consumed"""
        self.ended_there = False
        self.receiver: Receiver | None = None
        self.blocked: bytes | memoryview = b""
        """data that the peer does not take yet"""
        self.waiter: asyncio.Future[None] | None = None

    def send_headers(self, block: bytes) -> None:
        """Begin the answer."""
        self._connection.send_headers(self, block)

    async def send_data(self, data: bytes) -> None:
        """Send a part of the body, and return once the peer takes it; one part at a time."""
        self._connection.send_data(self, data)
        if self.blocked:
            await self.sent()

    async def sent(self) -> None:
        """Return once the peer takes what is blocked."""
        self.waiter = asyncio.get_running_loop().create_future()
        await self.waiter

    def end(self, block: bytes) -> None:
        """End the answer with a header block; what the peer still sends is ignored."""
        self._connection.end(self, block)

    def consumed(self, count: int) -> None:
        """Let the peer send `count` bytes more."""
        if not self.ended_there:
            self._connection.credit(self, count)
