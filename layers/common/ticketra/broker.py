"""Publishing to RabbitMQ: one connection, publisher confirms awaited in batches.

pika's asynchronous adapter calls back; here each call-back settles a future.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exceptions import AMQPError

from ticketra import messages

CONNECT_TIMEOUT_S = 5.0
CONFIRM_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0
HEARTBEAT_S = 15


class BrokerAway(Exception):  # noqa: N818 - a state of the world, not a failure of ours
    """RabbitMQ is away, or does not answer in time."""


class Publication(NamedTuple):
    """A message on its way out. A `mandatory` one that reaches no queue is not published.

    With an empty `exchange` the routing key is the name of a queue.
    """

    routing_key: str
    body: bytes
    properties: pika.BasicProperties
    mandatory: bool
    exchange: str = messages.EXCHANGE


class Broker:
    """Publishes batches and says which messages RabbitMQ has taken over."""

    def __init__(self, url: str, username: str, password: str) -> None:
        parts = urlsplit(url)
        self._parameters = pika.ConnectionParameters(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or 5672,
            virtual_host=unquote(parts.path.removeprefix("/")) or "/",
            credentials=pika.PlainCredentials(username or "guest", password or "guest"),
            heartbeat=HEARTBEAT_S,
            socket_timeout=CONNECT_TIMEOUT_S,
            stack_timeout=CONNECT_TIMEOUT_S,
            blocked_connection_timeout=CONFIRM_TIMEOUT_S,
        )
        self._connection: AsyncioConnection | None = None
        self._channel: Channel | None = None
        self._closed: asyncio.Future[None] | None = None
        self._sent = 0
        self._unconfirmed: dict[int, str] = {}
        self._confirmed: set[str] = set()
        self._returned: set[str] = set()
        self._all_settled: asyncio.Future[None] | None = None

    async def publish(self, batch: Sequence[Publication]) -> set[str]:
        """Publish `batch` in order, and return the ids of the messages that are safe.

        Raises:
            BrokerAway: RabbitMQ cannot be reached. Those on their way may or may not be safe.

        """
        channel = await self._opened()
        loop = asyncio.get_running_loop()
        self._confirmed, self._returned = set(), set()
        self._all_settled = loop.create_future()
        for publication in batch:
            self._send(channel, publication)
        await self._wait(self._all_settled, CONFIRM_TIMEOUT_S)
        return self._confirmed - self._returned

    async def close(self) -> None:
        """Close the connection, if there is one."""
        connection, closed = self._connection, self._closed
        if connection is None or closed is None:
            return
        self._connection = self._channel = None
        if connection.is_open:
            connection.close()
        await asyncio.wait([closed], timeout=CLOSE_TIMEOUT_S)

    def _send(self, channel: Channel, publication: Publication) -> None:
        self._sent += 1
        self._unconfirmed[self._sent] = publication.properties.message_id
        try:
            channel.basic_publish(
                publication.exchange,
                publication.routing_key,
                publication.body,
                publication.properties,
                mandatory=publication.mandatory,
            )
        except AMQPError as error:
            raise BrokerAway(repr(error)) from error

    async def _opened(self) -> Channel:
        if self._channel is not None and self._channel.is_open:
            return self._channel
        await self.close()
        loop = asyncio.get_running_loop()
        self._closed = loop.create_future()
        opened: asyncio.Future[AsyncioConnection] = loop.create_future()
        self._connection = AsyncioConnection(
            self._parameters,
            on_open_callback=lambda connection: _settle(opened, connection),
            on_open_error_callback=lambda _, error: self._on_closed(error),
            on_close_callback=lambda _, error: self._on_closed(error),
        )
        connection = await self._wait(opened, CONNECT_TIMEOUT_S)
        channel: Channel = await self._call(lambda done: connection.channel(on_open_callback=done))
        self._channel = channel
        channel.add_on_return_callback(self._on_return)
        channel.add_on_close_callback(lambda _, error: self._on_closed(error))
        self._sent, self._unconfirmed = 0, {}
        await self._call(lambda done: channel.confirm_delivery(self._on_confirm, callback=done))
        await self._declare(channel)
        return channel

    async def _declare(self, channel: Channel) -> None:
        """Declare the whole topology, so that no message finds its queue missing."""
        await self._call(
            lambda done: channel.exchange_declare(
                messages.EXCHANGE, "topic", durable=True, callback=done
            )
        )
        for queue in messages.QUEUES:
            await self._call(
                lambda done, queue=queue: channel.queue_declare(  # type: ignore[misc]
                    queue.name, durable=True, arguments=queue.arguments, callback=done
                )
            )
            for binding in queue.bindings:
                await self._call(
                    lambda done, queue=queue, binding=binding: channel.queue_bind(  # type: ignore[misc]
                        queue.name, messages.EXCHANGE, binding, callback=done
                    )
                )

    async def _call(self, method: Callable[[Callable[[Any], None]], object]) -> Any:
        """Call a method that answers through a call-back, and wait for the answer."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            method(lambda result: _settle(answer, result))
        except AMQPError as error:
            raise BrokerAway(repr(error)) from error
        return await self._wait(answer, CONNECT_TIMEOUT_S)

    async def _wait(self, answer: "asyncio.Future[Any]", limit_s: float) -> Any:
        """Wait for `answer`, unless the connection ends or `limit_s` passes first."""
        assert self._closed is not None
        await asyncio.wait(
            [answer, self._closed], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
        )
        if answer.done():
            return answer.result()
        reason = "it closed the connection" if self._closed.done() else "it does not answer"
        await self.close()
        raise BrokerAway(f"RabbitMQ is away: {reason}")

    def _on_closed(self, _: BaseException) -> None:
        if self._closed is not None:
            _settle(self._closed, None)

    def _on_return(self, _: Channel, __: Any, properties: pika.BasicProperties, ___: bytes) -> None:
        # RabbitMQ returns an unroutable message before it confirms it.
        self._returned.add(properties.message_id)

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        if method.multiple:
            tags = [tag for tag in self._unconfirmed if tag <= method.delivery_tag]
        else:
            tags = [method.delivery_tag]
        acknowledged = isinstance(method, pika.spec.Basic.Ack)
        for tag in tags:
            message_id = self._unconfirmed.pop(tag)
            if acknowledged:
                self._confirmed.add(message_id)
        if not self._unconfirmed and self._all_settled is not None:
            _settle(self._all_settled, None)


def _settle(future: "asyncio.Future[Any]", result: Any) -> None:
    if not future.done():
        future.set_result(result)
