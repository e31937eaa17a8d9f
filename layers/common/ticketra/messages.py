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
CLOUD_EVENT_PREFIX = "cloudEvents:"
CLOUD_EVENT_ATTRIBUTES = ("specversion", "id", "type", "source", "subject", "time")
PERSISTENT = 2

BOOKING_CREATED = "booking.created"
BOOKING_CONFIRMED = "booking.confirmed"
BOOKING_CANCELLED = "booking.cancelled"
BOOKING_EXPIRED = "booking.expired"
SALE_CLOSED = "sale.closed"
PAYMENT_SUCCEEDED = "payment.succeeded"
PAYMENT_FAILED = "payment.failed"
PAYMENT_REFUNDED = "payment.refunded"

# Without a queue that takes them, a booking would never be paid, or its money never given back.
NEEDED = frozenset({BOOKING_CREATED, BOOKING_CANCELLED})

CHARGE_QUEUE = "payment.booking-created"
REFUND_QUEUE = "payment.booking-cancelled"
DEAD_LETTER_QUEUE = "payment.dead-letter"
RETRY_DELAYS_S = (1, 2, 5, 15, 60)
# On a message in a retry or dead-letter queue: how often it has failed, how many of these were not
# because something was away, and why the last time.
ATTEMPT_HEADER = "x-ticketra-attempt"
FAULTS_HEADER = "x-ticketra-faults"
REASON_HEADER = "x-ticketra-reason"
# On a message in the dead-letter queue: where it goes when it is replayed, and its name there.
QUEUE_HEADER = "x-ticketra-queue"
DEAD_LETTER_ID_HEADER = "x-ticketra-dead-letter-id"
# Instead of the headers of a message that cannot be decoded: why not.
UNREADABLE_HEADER = "x-ticketra-unreadable-headers"


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue; `bindings` are routing keys on EXCHANGE.

    Other arguments need another name: a queue that exists is never changed.
    """

    name: str
    bindings: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=lambda: {"x-queue-type": "classic"})


def retry_queue(queue: str, delay_s: int) -> str:
    """Return the name of the queue that holds a message of `queue` for `delay_s`."""
    return f"{queue}.retry-after-{delay_s}s"


QUEUES: tuple[Queue, ...] = (
    Queue(CHARGE_QUEUE, bindings=(BOOKING_CREATED,)),
    Queue(REFUND_QUEUE, bindings=(BOOKING_CANCELLED,)),
    Queue(DEAD_LETTER_QUEUE),
    *(
        Queue(
            retry_queue(queue, delay_s),
            # The broker itself moves what has waited. Of a classic queue it does so unconfirmed,
            # and what it has in hand is lost when it is killed.
            arguments={
                "x-queue-type": "quorum",
                "x-overflow": "reject-publish",  # at-least-once needs it; there is no limit
                "x-message-ttl": delay_s * 1000,
                "x-dead-letter-strategy": "at-least-once",
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": queue,
            },
        )
        for queue in (CHARGE_QUEUE, REFUND_QUEUE)
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
            f"{CLOUD_EVENT_PREFIX}specversion": SPEC_VERSION,
            f"{CLOUD_EVENT_PREFIX}id": message_id,
            f"{CLOUD_EVENT_PREFIX}type": routing_key,
            f"{CLOUD_EVENT_PREFIX}source": source,
            f"{CLOUD_EVENT_PREFIX}subject": subject,
            f"{CLOUD_EVENT_PREFIX}time": time.isoformat(),
        },
    )


def encode(body: dict[str, Any]) -> bytes:
    """Return `body` as compact JSON."""
    return json.dumps(body, separators=(",", ":")).encode()
