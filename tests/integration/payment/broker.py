"""What the tests themselves do at the broker, and what the world hears there of payments."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pika

from payment.worker import SOURCE
from tests.integration import servers
from ticketra import messages

CANCEL_REASON = "The event was cancelled."


def booking_created(
    ticket_count: int, booking_id: UUID, message_id: str | None = None, hold_left_s: int = 600
) -> tuple[str, bytes, pika.BasicProperties]:
    """Return the routing key, body and properties of a booking.created message."""
    body = json.dumps(_body(ticket_count, booking_id, hold_left_s)).encode()
    key = messages.BOOKING_CREATED
    return key, body, _properties(key, message_id)


def _body(ticket_count: int, booking_id: UUID, hold_left_s: int) -> dict[str, object]:
    hold_expires_at = datetime.now(UTC) + timedelta(seconds=hold_left_s)
    return {
        "booking_id": str(booking_id),
        "event_id": "66f000000000000000000000",
        "user_id": str(uuid4()),
        "ticket_count": ticket_count,
        "amount_minor": ticket_count * 2500,
        "currency": "EUR",
        "hold_expires_at": hold_expires_at.isoformat(),
        "request_id": "r-1",
    }


def _properties(routing_key: str, message_id: str | None) -> pika.BasicProperties:
    return pika.BasicProperties(
        content_type="application/json",
        delivery_mode=messages.PERSISTENT,
        message_id=message_id or str(uuid4()),
        type=routing_key,
        headers={"cloudEvents:specversion": messages.SPEC_VERSION},
    )


class Broker:
    """What the tests themselves do at the broker, over a new connection each time."""

    def __init__(self, server: servers.Server) -> None:
        self.server = server
        self.parameters = pika.URLParameters(server.url)
        self.parameters.credentials = pika.PlainCredentials(server.username, server.password)

    def publish(
        self,
        body: bytes,
        properties: pika.BasicProperties,
        routing_key: str = messages.BOOKING_CREATED,
    ) -> None:
        self.publish_all([(routing_key, body, properties)])

    def publish_all(self, batch: Sequence[tuple[str, bytes, pika.BasicProperties]]) -> None:
        """Publish messages with their routing keys, in order, over one connection."""
        with pika.BlockingConnection(self.parameters) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            for routing_key, body, properties in batch:
                channel.basic_publish(
                    messages.EXCHANGE, routing_key, body, properties, mandatory=True
                )

    def publish_booking(
        self,
        ticket_count: int,
        booking_id: UUID | None = None,
        message_id: str | None = None,
        hold_left_s: int = 600,
    ) -> UUID:
        """Publish a booking.created message; return the booking's id."""
        booking_id = booking_id or uuid4()
        self.publish_all([booking_created(ticket_count, booking_id, message_id, hold_left_s)])
        return booking_id

    def publish_cancellation(
        self,
        booking_id: UUID,
        payment_status: str = "refunding",
        message_id: str | None = None,
        headers: dict[str, int] | None = None,
    ) -> None:
        """Publish a booking.cancelled message."""
        body = {
            **_body(2, booking_id, 600),
            "status": "CANCELLED",
            "payment_status": payment_status,
            "reason": CANCEL_REASON,
        }
        properties = _properties(messages.BOOKING_CANCELLED, message_id)
        properties.headers |= headers or {}
        self.publish(json.dumps(body).encode(), properties, messages.BOOKING_CANCELLED)

    def take(self, queue: str, *, put_back: bool = False) -> tuple[Any, bytes] | None:
        """Return the properties and body of the first message of `queue`, None if it is empty."""
        with pika.BlockingConnection(self.parameters) as connection:
            channel = connection.channel()
            method, properties, body = channel.basic_get(queue)
            if method is None:
                return None
            if put_back:
                channel.basic_nack(method.delivery_tag, requeue=True)
            else:
                channel.basic_ack(method.delivery_tag)
            return properties, body

    def ready(self, queue: str) -> int:
        """Return how many messages wait in `queue`, without those that somebody is handling."""
        with pika.BlockingConnection(self.parameters) as connection:
            declared = connection.channel().queue_declare(queue, passive=True)
            count: int = declared.method.message_count
            return count

    def bind(self, queue: str, routing_key: str) -> None:
        """Have a durable queue that takes what is published with a routing key."""
        with pika.BlockingConnection(self.parameters) as connection:
            channel = connection.channel()
            channel.exchange_declare(messages.EXCHANGE, "topic", durable=True)
            channel.queue_declare(queue, durable=True)
            channel.queue_bind(queue, messages.EXCHANGE, routing_key)

    def take_all(self, queue: str) -> list[tuple[Any, bytes]]:
        """Return the properties and bodies of all messages of `queue`, which is empty then."""
        taken = []
        with pika.BlockingConnection(self.parameters) as connection:
            channel = connection.channel()
            while (found := channel.basic_get(queue, auto_ack=True))[0] is not None:
                taken.append(found[1:])
        return taken

    def delete(self, queue: str) -> None:
        with pika.BlockingConnection(self.parameters) as connection:
            connection.channel().queue_delete(queue)


class Events:
    """What the world was told of payments, in a queue that outlives the broker."""

    queue = "payment-events-of-the-tests"

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._seen: list[tuple[str, str]] = []

    def of(self, booking_id: UUID) -> list[str]:
        """Return the routing keys of what came for a booking until now, in order."""
        for properties, body in self._broker.take_all(self.queue):
            said = json.loads(body)
            assert properties.delivery_mode == messages.PERSISTENT
            assert properties.headers["cloudEvents:source"] == SOURCE
            assert properties.headers["cloudEvents:subject"] == said["booking_id"]
            self._seen.append((said["booking_id"], properties.type))
        return [routing_key for subject, routing_key in self._seen if subject == str(booking_id)]
