"""Publishing to RabbitMQ: one connection, publisher confirms awaited in batches."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import pika
from pika.channel import Channel
from pika.exceptions import AMQPError

from ticketra import messages
from ticketra.amqp import AmqpConnection, BrokerAway, settle

CONFIRM_TIMEOUT_S = 10.0


class Publication(NamedTuple):
    """A message on its way out. A `mandatory` one that reaches no queue is not published.

    With an empty `exchange` the routing key is the name of a queue.
    """

    routing_key: str
    body: bytes
    properties: pika.BasicProperties
    mandatory: bool
    exchange: str = messages.EXCHANGE


class Publisher(Protocol):
    """Where messages go to: a `Broker`, as those see it who publish."""

    async def publish(self, batch: Sequence[Publication]) -> set[str]:
        """Publish a batch; return the ids of the messages that are safe."""

    async def close(self) -> None:
        """Close the connection; the next batch opens another."""


class Broker:
    """Publishes batches, one at a time, and says which messages RabbitMQ has taken over."""

    def __init__(self, url: str, username: str, password: str, *, name: str) -> None:
        self._connection = AmqpConnection(url, username, password, name=name)
        self._channel: Channel | None = None
        self._sent = 0
        self._unconfirmed: dict[int, str] = {}
        self._confirmed: set[str] = set()
        self._refused: set[str] = set()
        self._all_settled: asyncio.Future[None] | None = None

    async def publish(self, batch: Sequence[Publication]) -> set[str]:
        """Publish `batch` in order, and return the ids of the messages that are safe.

        Of messages that share an id, all have to be.

        Raises:
            BrokerAway: RabbitMQ cannot be reached. Those on their way may or may not be safe.

        """
        if not batch:
            return set()
        channel = await self._opened()
        self._confirmed, self._refused = set(), set()
        self._all_settled = asyncio.get_running_loop().create_future()
        for publication in batch:
            self._send(channel, publication)
        await self._connection.wait(self._all_settled, CONFIRM_TIMEOUT_S)
        return self._confirmed - self._refused

    async def close(self) -> None:
        """Close the connection, if there is one."""
        self._channel = None
        await self._connection.close()

    def _send(self, channel: Channel, publication: Publication) -> None:
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
        self._sent += 1  # as the broker counts; not what could not be encoded
        self._unconfirmed[self._sent] = publication.properties.message_id

    async def _opened(self) -> Channel:
        if self._channel is not None and self._channel.is_open:
            return self._channel
        await self._connection.open()
        channel = await self._connection.channel()
        channel.add_on_return_callback(self._on_return)
        self._sent, self._unconfirmed = 0, {}
        await self._connection.call(
            lambda done: channel.confirm_delivery(
                lambda frame: self._on_confirm(channel, frame), callback=done
            )
        )
        await self._connection.declare(channel)
        self._channel = channel
        return channel

    def _on_return(self, _: Channel, __: Any, properties: pika.BasicProperties, ___: bytes) -> None:
        # RabbitMQ returns an unroutable message before it confirms it.
        self._refused.add(properties.message_id)

    def _on_confirm(self, channel: Channel, frame: Any) -> None:
        if channel is not self._channel:
            return  # of a connection that was given up, and now answers after all
        method = frame.method
        if method.multiple:
            tags = [tag for tag in self._unconfirmed if tag <= method.delivery_tag]
        else:
            tags = [method.delivery_tag]
        acknowledged = isinstance(method, pika.spec.Basic.Ack)
        for tag in tags:
            message_id = self._unconfirmed.pop(tag)
            (self._confirmed if acknowledged else self._refused).add(message_id)
        if not self._unconfirmed and self._all_settled is not None:
            settle(self._all_settled, None)
