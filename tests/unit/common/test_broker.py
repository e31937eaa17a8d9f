"""Which messages count as safe, with channels that the test confirms on."""

import asyncio
from collections.abc import Callable
from typing import Any

import pika
import pytest

from ticketra import broker
from ticketra.amqp import BrokerAway
from ticketra.broker import Broker, Publication

UNENCODABLE = b"unencodable"


class Channel:
    """Counts what is published as the broker does."""

    is_open = True

    def __init__(self) -> None:
        self.published = 0
        self._on_confirm: Callable[[Any], None] = lambda _: None

    def add_on_return_callback(self, _: object) -> None:
        pass

    def confirm_delivery(
        self, on_confirm: Callable[[Any], None], callback: Callable[[None], None]
    ) -> None:
        self._on_confirm = on_confirm
        callback(None)

    def basic_publish(
        self, exchange: str, key: str, body: bytes, properties: object, *, mandatory: bool
    ) -> None:
        if body == UNENCODABLE:
            raise ValueError(body)
        self.published += 1

    def confirm(self, tag: int) -> None:
        self._on_confirm(pika.frame.Method(1, pika.spec.Basic.Ack(delivery_tag=tag)))


class Connection:
    """Opens a new channel each time; it is lost when the test says so."""

    def __init__(self, *_: str, name: str) -> None:
        self.channels: list[Channel] = []
        self.lost = asyncio.Event()

    async def open(self) -> None:
        self.lost.clear()

    async def channel(self) -> Channel:
        self.channels.append(Channel())
        return self.channels[-1]

    async def declare(self, _: Channel) -> None:
        pass

    async def call(self, method: Callable[[Callable[[Any], None]], object]) -> None:
        method(lambda _: None)

    async def wait(self, answer: "asyncio.Future[None]", _: float) -> None:
        lost: asyncio.Future[Any] = asyncio.ensure_future(self.lost.wait())
        either: list[asyncio.Future[Any]] = [answer, lost]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if lost.done():
            raise BrokerAway("lost")
        lost.cancel()

    async def close(self) -> None:
        pass


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Connection:
    made = Connection(name="test")
    monkeypatch.setattr(broker, "AmqpConnection", lambda *_, **__: made)
    return made


def publication(message_id: str, body: bytes = b"body") -> Publication:
    return Publication("key", body, pika.BasicProperties(message_id=message_id), mandatory=False)


async def published(channels: list[Channel], count: int) -> Channel:
    """Wait until so many messages were published on the last of several channels."""
    async with asyncio.timeout(5):
        while not channels or channels[-1].published < count:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
    return channels[-1]


async def test_a_message_that_cannot_be_sent_does_not_shift_what_is_confirmed(
    connection: Connection,
) -> None:
    publisher = Broker("url", "user", "password", name="test")
    with pytest.raises(ValueError, match="unencodable"):
        await publisher.publish([publication("bad", UNENCODABLE)])
    publishing = asyncio.ensure_future(publisher.publish([publication("good")]))
    (await published(connection.channels, 1)).confirm(1)
    async with asyncio.timeout(5):
        assert await publishing == {"good"}


async def test_what_a_lost_connection_confirms_late_is_not_taken_for_another_message(
    connection: Connection,
) -> None:
    publisher = Broker("url", "user", "password", name="test")
    losing = asyncio.ensure_future(publisher.publish([publication("first")]))
    old = await published(connection.channels, 1)
    connection.lost.set()
    with pytest.raises(BrokerAway):
        await losing
    old.is_open = False
    publishing = asyncio.ensure_future(publisher.publish([publication("second")]))
    async with asyncio.timeout(5):
        while len(connection.channels) == 1:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
    new = await published(connection.channels, 1)
    old.confirm(1)
    for _ in range(50):
        await asyncio.sleep(0)
    assert not publishing.done()
    new.confirm(1)
    async with asyncio.timeout(5):
        assert await publishing == {"second"}
