"""A connection to RabbitMQ on the event loop.

pika's asynchronous adapter calls back; here each call-back settles a future.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import pika
from pika.channel import Channel
from pika.exceptions import AMQPError

from ticketra import messages
from ticketra.tolerant_connection import TolerantConnection

CONNECT_TIMEOUT_S = 5.0
# A broker that is short of memory or disk stops taking messages; then start over, not hang.
BLOCKED_LIMIT_S = 10.0
CLOSE_TIMEOUT_S = 2.0
HEARTBEAT_S = 15


class BrokerAway(Exception):  # noqa: N818 - a state of the world, not a failure of ours
    """RabbitMQ is away, or does not answer in time."""


class AmqpConnection:
    """One connection at a time, which is opened again after it was lost.

    Args:
        url: without credentials.
        username: empty leaves it to the client's default, as with the password.
        password: of that user.
        name: shown by the broker.

    """

    def __init__(self, url: str, username: str, password: str, *, name: str) -> None:
        parts = urlsplit(url)
        self._parameters = pika.ConnectionParameters(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or 5672,
            virtual_host=unquote(parts.path.removeprefix("/")) or "/",
            credentials=pika.PlainCredentials(username or "guest", password or "guest"),
            heartbeat=HEARTBEAT_S,
            socket_timeout=CONNECT_TIMEOUT_S,
            stack_timeout=CONNECT_TIMEOUT_S,
            blocked_connection_timeout=BLOCKED_LIMIT_S,
            client_properties={"connection_name": name},
        )
        self._connection: TolerantConnection | None = None
        self._closed: asyncio.Future[None] | None = None

    @property
    def closed(self) -> "asyncio.Future[None]":
        """Settled when the connection that was opened last, or a channel of it, is lost."""
        assert self._closed is not None
        return self._closed

    async def open(self) -> None:
        """Open a new connection; what was left of the last one is closed.

        Raises:
            BrokerAway: RabbitMQ cannot be reached.

        """
        await self.close()
        loop = asyncio.get_running_loop()
        closed: asyncio.Future[None] = loop.create_future()
        opened: asyncio.Future[TolerantConnection] = loop.create_future()
        self._connection = TolerantConnection(
            self._parameters,
            on_open_callback=lambda connection: settle(opened, connection),
            on_open_error_callback=lambda *_: settle(closed, None),
            on_close_callback=lambda *_: settle(closed, None),
        )
        self._closed = closed
        await self.wait(opened, CONNECT_TIMEOUT_S)

    async def channel(self) -> Channel:
        """Open a channel.

        Raises:
            BrokerAway: the connection is lost.

        """
        connection, closed = self._connection, self.closed
        if connection is None:
            raise BrokerAway("the connection was closed meanwhile")
        channel: Channel = await self.call(lambda done: connection.channel(on_open_callback=done))
        channel.add_on_close_callback(lambda *_: settle(closed, None))
        return channel

    async def declare(self, channel: Channel) -> None:
        """Declare the whole topology, so that no message finds its queue missing."""
        await self.call(
            lambda done: channel.exchange_declare(
                messages.EXCHANGE, "topic", durable=True, callback=done
            )
        )
        for queue in messages.QUEUES:
            await self.call(
                lambda done, queue=queue: channel.queue_declare(  # type: ignore[misc]
                    queue.name, durable=True, arguments=queue.arguments, callback=done
                )
            )
            for binding in queue.bindings:
                await self.call(
                    lambda done, queue=queue, binding=binding: channel.queue_bind(  # type: ignore[misc]
                        queue.name, messages.EXCHANGE, binding, callback=done
                    )
                )

    async def call(self, method: Callable[[Callable[[Any], None]], object]) -> Any:
        """Call a method that answers through a call-back, and wait for the answer.

        Raises:
            BrokerAway: none comes.

        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            method(lambda result: settle(answer, result))
        except AMQPError as error:
            raise BrokerAway(repr(error)) from error
        return await self.wait(answer, CONNECT_TIMEOUT_S)

    async def wait(self, answer: "asyncio.Future[Any]", limit_s: float) -> Any:
        """Wait for `answer`, unless the connection ends or `limit_s` passes first.

        Raises:
            BrokerAway: so it was.

        """
        closed = self.closed
        await asyncio.wait([answer, closed], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        reason = "it closed the connection" if closed.done() else "it does not answer"
        await self.close()
        raise BrokerAway(f"RabbitMQ is away: {reason}")

    async def close(self) -> None:
        """Close the connection, if there is one."""
        connection, closed = self._connection, self._closed
        if connection is None or closed is None:
            return
        self._connection = None
        if not (connection.is_closing or connection.is_closed):
            connection.close()
            await asyncio.wait([closed], timeout=CLOSE_TIMEOUT_S)
        settle(closed, None)


def settle(future: "asyncio.Future[Any]", result: Any) -> None:
    """Give `future` its result, unless it has one."""
    if not future.done():
        future.set_result(result)
