"""Dead letters, and the command that deals with them, for tests."""

from collections.abc import Callable
from typing import NamedTuple

import pika

from tests.integration import servers
from ticketra import messages
from ticketra.messages import CHARGE_QUEUE, DEAD_LETTER_QUEUE


class Letters:
    """Puts dead letters there, and looks where messages are."""

    def __init__(self, channel: pika.adapters.blocking_connection.BlockingChannel) -> None:
        self._channel = channel

    def put(
        self, name: str | None, queue: str | None = CHARGE_QUEUE, body: bytes | None = None
    ) -> None:
        headers: dict[str, str | int] = {
            "cloudEvents:specversion": "1.0",
            "x-death": "of the broker",
            messages.ATTEMPT_HEADER: 10,
            messages.REASON_HEADER: "UnexpectedAnswer: why",
        }
        if name is not None:
            headers[messages.DEAD_LETTER_ID_HEADER] = name
        if queue is not None:
            headers[messages.QUEUE_HEADER] = queue
        self._channel.basic_publish(
            "",
            DEAD_LETTER_QUEUE,
            f'{{"n":"{name}"}}'.encode() if body is None else body,
            pika.BasicProperties(
                content_type="application/json",
                message_id=f"m-{name}",
                type=messages.BOOKING_CREATED,
                headers=headers,
            ),
            mandatory=True,
        )

    def put_as_it_is(self, body: bytes, properties: pika.BasicProperties) -> None:
        self._channel.basic_publish("", DEAD_LETTER_QUEUE, body, properties, mandatory=True)

    def left(self, queue: str = DEAD_LETTER_QUEUE) -> list[str]:
        """Take what is in a queue, and return the message ids in order."""
        return [properties.message_id for properties, _ in self.taken(queue)]

    def taken(self, queue: str) -> list[tuple[pika.BasicProperties, bytes]]:
        found: list[tuple[pika.BasicProperties, bytes]] = []
        while True:
            method, properties, body = self._channel.basic_get(queue, auto_ack=True)
            if method is None:
                return found
            found.append((properties, body))

    def count(self, queue: str = DEAD_LETTER_QUEUE) -> int:
        count: int = self._channel.queue_declare(queue, passive=True).method.message_count
        return count


class Done(NamedTuple):
    code: int
    output: str
    error: str


Command = Callable[..., Done]


def rabbitmq_settings(server: servers.Server) -> dict[str, str]:
    return {
        "RABBITMQ_URL": server.url,
        "RABBITMQ_USERNAME": server.username,
        "RABBITMQ_PASSWORD": server.password,
    }
