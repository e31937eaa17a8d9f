"""The messages between services, and the broker's topology as data.

Bodies are JSON; the CloudEvents attributes travel as AMQP properties (CloudEvents AMQP binding 1.0,
headers prefixed `cloudEvents:`). The message id is the id of the outbox row that it came from.
Whoever connects first declares the whole topology, so that no message finds its queue missing.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pika

EXCHANGE = "ticketra.events"
SPEC_VERSION = "1.0"
PERSISTENT = 2

BOOKING_CREATED = "booking.created"
BOOKING_CONFIRMED = "booking.confirmed"
BOOKING_CANCELLED = "booking.cancelled"
BOOKING_EXPIRED = "booking.expired"
SALE_CLOSED = "sale.closed"
PAYMENT_SUCCEEDED = "payment.succeeded"
PAYMENT_FAILED = "payment.failed"

PAYMENT_QUEUE = "payment.booking-created"
PAYMENT_DEAD_LETTER_QUEUE = "payment.dead-letter"
RETRY_DELAYS_S = (1, 2, 5, 15, 60)
# On a message in a retry or dead-letter queue: how often it has failed, and why the last time.
ATTEMPT_HEADER = "x-ticketra-attempt"
REASON_HEADER = "x-ticketra-reason"


@dataclass(frozen=True, slots=True)
class Queue:
    """A classic durable queue; `bindings` are routing keys on EXCHANGE."""

    name: str
    bindings: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)


def retry_queue(delay_s: int) -> str:
    """Return the name of the queue that holds a message for `delay_s` and then gives it back."""
    return f"payment.retry-{delay_s}s"


QUEUES: tuple[Queue, ...] = (
    Queue(PAYMENT_QUEUE, bindings=(BOOKING_CREATED,)),
    Queue(PAYMENT_DEAD_LETTER_QUEUE),
    *(
        Queue(
            retry_queue(delay_s),
            arguments={
                "x-message-ttl": delay_s * 1000,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": PAYMENT_QUEUE,
            },
        )
        for delay_s in RETRY_DELAYS_S
    ),
)


def properties(
    *, message_id: str, routing_key: str, source: str, subject: str, time: datetime
) -> pika.BasicProperties:
    """Return the AMQP properties of a persistent message with its CloudEvents attributes."""
    return pika.BasicProperties(
        content_type="application/json",
        delivery_mode=PERSISTENT,
        message_id=message_id,
        type=routing_key,
        headers={
            "cloudEvents:specversion": SPEC_VERSION,
            "cloudEvents:id": message_id,
            "cloudEvents:type": routing_key,
            "cloudEvents:source": source,
            "cloudEvents:subject": subject,
            "cloudEvents:time": time.isoformat(),
        },
    )


def encode(body: dict[str, Any]) -> bytes:
    """Return `body` as compact JSON."""
    return json.dumps(body, separators=(",", ":")).encode()
