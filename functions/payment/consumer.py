"""Takes messages from RabbitMQ, has several handled at once, and settles each when it is done.

The connection belongs to the thread that calls `Consumer.run`. Worker threads only handle messages
and hand the outcome back to it. A message is acknowledged after its effect is stored, or after the
broker has confirmed a copy of it in a retry queue or the dead-letter queue: never before.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ConnectionWrongStateError

from payment.logic import Acknowledge, DeadLetter, Retry, settlement
from payment.models import Outage, Unparseable, read_request_id
from ticketra import messages
from ticketra.log import logger

# Also the prefetch: each message that the broker hands out has a thread to itself.
IN_FLIGHT_LIMIT = 8
POLL_INTERVAL_S = 0.2
DRAIN_LIMIT_S = 15
RECONNECT_DELAYS_S = (0.5, 1, 2, 5)
CONNECT_TIMEOUT_S = 5
HEARTBEAT_S = 20
# A broker that is short of memory or disk stops taking messages; then start over, not hang.
BLOCKED_LIMIT_S = 30
REASON_HEADER_LIMIT_CHARS = 300

# Handles the message with this id (None if it has none) and body, and raises if it had no effect.
Handler = Callable[[str | None, bytes], None]


def connection_parameters(url: str, username: str, password: str) -> pika.URLParameters:
    """Return how to connect to the broker; an empty `username` leaves the client's default."""
    parameters = pika.URLParameters(url)
    if username:
        parameters.credentials = pika.PlainCredentials(username, password)
    parameters.heartbeat = HEARTBEAT_S
    parameters.blocked_connection_timeout = BLOCKED_LIMIT_S
    parameters.socket_timeout = CONNECT_TIMEOUT_S
    parameters.stack_timeout = CONNECT_TIMEOUT_S
    parameters.connection_attempts = 1
    parameters.client_properties = {"connection_name": "payment"}
    return parameters


class Consumer:
    """Consumes the payment queue until it is stopped, over as many connections as that takes.

    Args:
        parameters: how to connect.
        handle: called in worker threads, up to IN_FLIGHT_LIMIT at once.
        beat: called at least every few seconds, also while the broker is away.

    """

    def __init__(
        self, parameters: pika.URLParameters, handle: Handler, beat: Callable[[], None]
    ) -> None:
        self._parameters = parameters
        self._handle = handle
        self._beat = beat
        self._stopping = False
        self._failures = 0  # in a row, to connect

    def stop(self) -> None:
        """Make `run` finish what is in flight and return; may be called from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Consume until `stop` is called, then drain for at most DRAIN_LIMIT_S."""
        executor = ThreadPoolExecutor(IN_FLIGHT_LIMIT, thread_name_prefix="payment")
        try:
            while not self._stopping:
                try:
                    self._run_session(executor)
                except (AMQPError, OSError) as error:
                    logger.warning("no connection to RabbitMQ", extra={"reason": repr(error)})
                    self._failures += 1
                    self._pause(
                        RECONNECT_DELAYS_S[min(self._failures, len(RECONNECT_DELAYS_S)) - 1]
                    )
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

    def _run_session(self, executor: ThreadPoolExecutor) -> None:
        session = _Session(pika.BlockingConnection(self._parameters), executor, self._handle)
        try:
            session.start()
            self._failures = 0
            self._consume(session)
        finally:
            session.close()
            self._wait_for(session)

    def _consume(self, session: "_Session") -> None:
        logger.info("consuming", extra={"queue": messages.CHARGE_QUEUE})
        while not self._stopping:
            self._beat()
            session.process()
        logger.info("stopping", extra={"in_flight": session.in_flight})
        session.drain(time.monotonic() + DRAIN_LIMIT_S)

    def _wait_for(self, session: "_Session") -> None:
        """Wait for what a lost connection left in flight: the broker delivers all of it again.

        So no more than IN_FLIGHT_LIMIT messages are ever handled at once, over all connections.
        Every call that handling a message makes has a time-out, so the wait ends.
        """
        while session.is_working and not self._stopping:
            self._beat()
            time.sleep(POLL_INTERVAL_S)

    def _pause(self, seconds: float) -> None:
        """Wait, but only until `stop`, which may only set a flag: it runs in a signal handler."""
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            self._beat()
            time.sleep(min(POLL_INTERVAL_S, left))


@dataclass(frozen=True, slots=True)
class _Delivery:
    tag: int
    properties: pika.BasicProperties
    body: bytes


class _Session:
    """One connection and the messages in flight on it. Delivery tags mean nothing on another."""

    def __init__(
        self, connection: pika.BlockingConnection, executor: ThreadPoolExecutor, handle: Handler
    ) -> None:
        self._connection = connection
        self._executor = executor
        self._handle = handle
        self._futures: dict[int, Future[None]] = {}
        self._channel: BlockingChannel
        self._consumer_tag = ""

    @property
    def in_flight(self) -> int:
        """How many messages are being handled or wait to be settled."""
        return len(self._futures)

    @property
    def is_working(self) -> bool:
        """Whether a worker thread still handles one of its messages."""
        return any(not future.done() for future in self._futures.values())

    def start(self) -> None:
        """Declare the topology and start to consume."""
        self._channel = self._connection.channel()
        _declare_topology(self._channel)
        self._channel.confirm_delivery()
        self._channel.basic_qos(prefetch_count=IN_FLIGHT_LIMIT)
        self._consumer_tag = self._channel.basic_consume(
            messages.CHARGE_QUEUE, self._on_message, auto_ack=False
        )

    def process(self) -> None:
        """Receive and settle for about POLL_INTERVAL_S.

        Raises:
            AMQPError: the connection, the channel or the consumer is lost.

        """
        self._connection.process_data_events(POLL_INTERVAL_S)
        if not self._channel.is_open or self._consumer_tag not in self._channel.consumer_tags:
            raise AMQPError("the broker cancelled the consumer")

    def drain(self, until: float) -> None:
        """Take no more messages, settle those in flight until the monotonic time `until`."""
        self._channel.basic_cancel(self._consumer_tag)
        while self._futures and time.monotonic() < until:
            self._connection.process_data_events(POLL_INTERVAL_S)
        if self._futures:
            logger.warning("left payments to the next worker", extra={"count": self.in_flight})

    def close(self) -> None:
        """Close the connection if it is open; what is not acknowledged goes back to the queue."""
        if self._connection.is_open:
            with suppress(AMQPError):  # lost in this moment: then it is closed as well
                self._connection.close()

    def _on_message(
        self, _channel: BlockingChannel, method: Any, properties: Any, body: bytes
    ) -> None:
        delivery = _Delivery(method.delivery_tag, properties, body)
        future = self._executor.submit(self._handle, properties.message_id, body)
        self._futures[delivery.tag] = future
        future.add_done_callback(partial(self._hand_back, delivery))

    def _hand_back(self, delivery: _Delivery, future: Future[None]) -> None:
        """Pass an outcome from its worker thread to the thread that owns the connection."""
        if future.cancelled():
            return
        try:
            self._connection.add_callback_threadsafe(
                partial(self._settle, delivery, future.exception())
            )
        except ConnectionWrongStateError:
            logger.info("connection lost before a message was settled: it comes again")

    def _settle(self, delivery: _Delivery, error: BaseException | None) -> None:
        decision = settlement(error, _failed_attempts(delivery.properties))
        match decision:
            case Retry(delay_s=delay_s):
                _log_failure(delivery, decision, error)
                self._publish(messages.retry_queue(messages.CHARGE_QUEUE, delay_s), delivery, decision)
            case DeadLetter():
                _log_failure(delivery, decision, error)
                self._publish(messages.DEAD_LETTER_QUEUE, delivery, decision)
            case Acknowledge():
                pass
        self._channel.basic_ack(delivery.tag)
        del self._futures[delivery.tag]

    def _publish(self, queue: str, delivery: _Delivery, decision: Retry | DeadLetter) -> None:
        """Put a copy of a message into `queue` and wait until the broker has it."""
        self._channel.basic_publish(
            exchange="",
            routing_key=queue,
            body=delivery.body,
            properties=_copied(delivery.properties, decision),
            mandatory=True,
        )


def _declare_topology(channel: BlockingChannel) -> None:
    channel.exchange_declare(messages.EXCHANGE, exchange_type="topic", durable=True)
    for queue in messages.QUEUES:
        channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)
        for routing_key in queue.bindings:
            channel.queue_bind(queue.name, messages.EXCHANGE, routing_key)


def _failed_attempts(properties: pika.BasicProperties) -> int:
    value = (properties.headers or {}).get(messages.ATTEMPT_HEADER, 0)
    return value if isinstance(value, int) and value > 0 else 0


def _copied(properties: pika.BasicProperties, decision: Retry | DeadLetter) -> pika.BasicProperties:
    """Return the properties of a copy: what a CloudEvent needs, the attempt and the reason.

    The broker's own trail (x-death) stays behind, and so does whatever else a publisher may have
    set that another connection is not allowed to repeat.
    """
    headers = {
        name: value
        for name, value in (properties.headers or {}).items()
        if isinstance(value, str) and not name.startswith("x-")
    }
    return pika.BasicProperties(
        content_type=properties.content_type,
        delivery_mode=messages.PERSISTENT,
        message_id=properties.message_id,
        type=properties.type,
        headers={
            **headers,
            messages.ATTEMPT_HEADER: decision.attempt,
            messages.REASON_HEADER: decision.reason[:REASON_HEADER_LIMIT_CHARS],
        },
    )


def _log_failure(
    delivery: _Delivery, decision: Retry | DeadLetter, error: BaseException | None
) -> None:
    extra = {
        "message_id": delivery.properties.message_id,
        "request_id": read_request_id(delivery.body),
        "attempt": decision.attempt,
        "reason": decision.reason,
        "cause": repr(error.__cause__) if error is not None and error.__cause__ else None,
    }
    foreseen = isinstance(error, Outage | Unparseable)
    exc_info = None if foreseen else error
    if isinstance(decision, DeadLetter):
        logger.error("message moved to the dead-letter queue", extra=extra, exc_info=exc_info)
    else:
        logger.warning("message will be retried", extra=extra, exc_info=exc_info)
