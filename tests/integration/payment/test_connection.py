"""A connection to RabbitMQ that is lost in part, refused, or never answered."""

import asyncio
from collections.abc import AsyncIterator

import pika
import pytest

from tests.integration import servers
from tests.integration.payment.broker import Broker
from tests.integration.payment.worker_process import eventually
from ticketra import messages
from ticketra.amqp import AmqpConnection, BrokerAway


@pytest.fixture
async def connection(rabbitmq: servers.Server) -> AsyncIterator[AmqpConnection]:
    connection = AmqpConnection(rabbitmq.url, rabbitmq.username, rabbitmq.password, name="test")
    await connection.open()
    yield connection
    await connection.close()


async def test_a_lost_channel_is_a_lost_connection(connection: AmqpConnection) -> None:
    await connection.channel()
    other = await connection.channel()
    assert not connection.closed.done()
    other.basic_publish("no-such-exchange", "key", b"", pika.BasicProperties())
    async with asyncio.timeout(5):
        await connection.closed


async def test_it_opens_again_after_it_was_lost(connection: AmqpConnection) -> None:
    lost = connection.closed
    await connection.close()
    assert lost.done()
    await connection.open()
    assert not connection.closed.done()
    assert (await connection.channel()).is_open


async def test_a_broker_with_the_queues_of_before_is_taken_over(
    connection: AmqpConnection, broker: Broker
) -> None:
    # When retries waited in classic queues, and the type of the others was left to the broker.
    stays = (messages.CHARGE_QUEUE, messages.REFUND_QUEUE, messages.DEAD_LETTER_QUEUE)
    former = f"{messages.CHARGE_QUEUE}.retry-1s"
    with pika.BlockingConnection(broker.parameters) as earlier:
        channel = earlier.channel()
        channel.confirm_delivery()
        for queue in stays:
            channel.queue_delete(queue)
            channel.queue_declare(queue, durable=True)
        channel.queue_declare(
            former,
            durable=True,
            arguments={
                "x-message-ttl": 1000,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": messages.CHARGE_QUEUE,
            },
        )
        for queue in (*stays, former):
            channel.basic_publish("", queue, b"", pika.BasicProperties(message_id=queue))

    await connection.declare(await connection.channel())

    eventually(lambda: broker.ready(messages.CHARGE_QUEUE) == 2, "what waited to come back")
    kept = [properties.message_id for queue in stays for properties, _ in broker.take_all(queue)]
    assert sorted(kept) == sorted((*stays, former))
    broker.delete(former)


async def test_wrong_credentials_are_an_outage(rabbitmq: servers.Server) -> None:
    connection = AmqpConnection(rabbitmq.url, rabbitmq.username, "wrong", name="test")
    with pytest.raises(BrokerAway):
        await connection.open()


async def test_nobody_there_is_an_outage() -> None:
    connection = AmqpConnection("amqp://127.0.0.1:1/%2F", "", "", name="test")
    with pytest.raises(BrokerAway):
        await connection.open()


async def test_a_server_that_says_nothing_is_given_up_and_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_go = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):
            continue
        let_go.set()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", servers.free_port())
    port = server.sockets[0].getsockname()[1]
    async with server:
        connection = AmqpConnection(f"amqp://127.0.0.1:{port}/%2F", "", "", name="test")
        # Sooner than pika's own limits, after which it would let go by itself.
        monkeypatch.setattr("ticketra.amqp.CONNECT_TIMEOUT_S", 0.3)
        with pytest.raises(BrokerAway, match="does not answer"):
            await connection.open()
        async with asyncio.timeout(3):
            await let_go.wait()


async def test_who_lost_the_connection_meanwhile_gets_no_channel(
    connection: AmqpConnection,
) -> None:
    await connection.close()
    with pytest.raises(BrokerAway):
        await connection.channel()
