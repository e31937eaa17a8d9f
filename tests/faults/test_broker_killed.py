"""kill -9 of RabbitMQ while it moves messages that have waited for another try: none is lost."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from itertools import count

import pika
import pytest

from tests.integration import servers
from tests.integration.payment.broker import Broker as AtBroker
from ticketra import messages
from ticketra.amqp import BrokerAway
from ticketra.broker import Broker, Publication

# One for each twenty kills of a worker.
KILLS = max(2, int(os.environ.get("FAULT_KILLS", "40")) // 20)
CONTROL_KILL_LIMIT = 5
BATCH = 20
MOVED = 1_000  # messages before the kill; as many again and more are to be moved then
ARRIVAL_LIMIT_S = 30.0
CONTROL_ARRIVAL_LIMIT_S = 5.0
POLL_S = 0.02
BODY = b"x" * 400
DELAY_S = messages.RETRY_DELAYS_S[0]
ENDS = (messages.CHARGE_QUEUE, messages.REFUND_QUEUE, messages.DEAD_LETTER_QUEUE)
UNCONFIRMED = messages.Queue(
    "moved-unconfirmed",
    arguments={
        "x-queue-type": "classic",
        "x-message-ttl": DELAY_S * 1000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": messages.CHARGE_QUEUE,
    },
)


class Trial:
    """Publishes to queues in turn, and kills the broker over it."""

    def __init__(self, rabbitmq: servers.Server, *queues: str) -> None:
        self._rabbitmq = rabbitmq
        self._queues = queues
        self._numbers = count()

    def lost(self, limit_s: float) -> tuple[int, set[str]]:
        """Kill the broker once.

        Returns:
            How many messages it had confirmed, and those of them that are in none of ENDS `limit_s`
            after it came back.

        """
        confirmed = asyncio.run(self._publish_until_killed())
        self._rabbitmq.start()
        return len(confirmed), self._missing(confirmed, limit_s)

    async def _publish_until_killed(self) -> set[str]:
        server = self._rabbitmq
        broker = Broker(server.url, server.username, server.password, name="trial")
        confirmed = await broker.publish([self._message()])
        killed = asyncio.create_task(asyncio.to_thread(self._kill_while_moving))
        try:
            while not killed.done():
                confirmed |= await broker.publish([self._message() for _ in range(BATCH)])
        except BrokerAway:
            await killed  # nothing is known of the last batch
        await broker.close()
        return confirmed

    def _message(self) -> Publication:
        number = next(self._numbers)
        return Publication(
            self._queues[number % len(self._queues)],
            BODY,
            pika.BasicProperties(message_id=str(number), delivery_mode=messages.PERSISTENT),
            mandatory=True,
            exchange="",
        )

    def _kill_while_moving(self) -> None:
        waiting = AtBroker(self._rabbitmq)
        while waiting.ready(messages.CHARGE_QUEUE) < MOVED:
            time.sleep(POLL_S)
        self._rabbitmq.kill()

    def _missing(self, confirmed: set[str], limit_s: float) -> set[str]:
        missing = set(confirmed)
        deadline = time.monotonic() + limit_s
        with pika.BlockingConnection(AtBroker(self._rabbitmq).parameters) as connection:
            channel = connection.channel()
            for queue in ENDS:
                channel.basic_consume(
                    queue,
                    lambda _, __, properties, ___: missing.discard(properties.message_id),
                    auto_ack=True,
                )
            while missing and time.monotonic() < deadline:
                connection.process_data_events(POLL_S)
        return missing


@pytest.fixture
def rabbitmq() -> Iterator[servers.Server]:
    with servers.rabbitmq() as server:
        yield server


@pytest.mark.timeout(120 + 30 * KILLS)
def test_nothing_is_lost_when_the_broker_is_killed_while_it_moves_messages(
    rabbitmq: servers.Server,
) -> None:
    retry = messages.retry_queue(messages.CHARGE_QUEUE, DELAY_S)
    # Most of them wait; some are where they stay.
    trial = Trial(rabbitmq, retry, retry, messages.REFUND_QUEUE, retry, messages.DEAD_LETTER_QUEUE)
    total = 0
    for _ in range(KILLS):
        confirmed, lost = trial.lost(ARRIVAL_LIMIT_S)
        assert not lost, f"{len(lost)} of {confirmed} confirmed messages are lost"
        total += confirmed
    sys.stdout.write(f"RabbitMQ killed {KILLS} times: all of {total} confirmed messages kept\n")


def test_messages_that_are_moved_unconfirmed_would_be_found_lost(rabbitmq: servers.Server) -> None:
    trial = Trial(rabbitmq, UNCONFIRMED.name)
    with pika.BlockingConnection(AtBroker(rabbitmq).parameters) as connection:
        connection.channel().queue_declare(
            UNCONFIRMED.name, durable=True, arguments=UNCONFIRMED.arguments
        )
    for _ in range(CONTROL_KILL_LIMIT):
        confirmed, lost = trial.lost(CONTROL_ARRIVAL_LIMIT_S)
        if lost:
            sys.stdout.write(f"{len(lost)} of {confirmed} found lost of a classic queue\n")
            return
    raise AssertionError("none is found lost, whatever is done: this proves nothing")
