"""A transport in memory, so that thousands of connections take seconds."""

import asyncio
from typing import Any

from booking.http2.connection import Connection


class NoSocket:
    def setsockopt(self, *_: int) -> None:
        """Take any option."""


class Wire(asyncio.Transport):
    def __init__(self, protocol: Connection) -> None:
        super().__init__({"socket": NoSocket()})
        self._protocol = protocol
        self._closing = False
        self.written = bytearray()
        protocol.connection_made(self)

    def receive(self, data: bytes) -> None:
        if not self._closing:
            self._protocol.data_received(data)

    def write(self, data: Any) -> None:
        self.written += data

    def write_eof(self) -> None:
        """The test does not wait for it."""

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close
