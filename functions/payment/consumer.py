"""Takes messages from RabbitMQ, has several handled at once, and settles each when it is done.

A message is acknowledged after its effect is stored, or after the broker has confirmed a copy of it
in a retry queue or the dead-letter queue: never before.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import pika
from pika.channel import Channel

from payment.copies import copied
from payment.logic import HOLD_MARGIN, Acknowledge, DeadLetter, Failures, Retry, settlement
from payment.models import Outage, Unparseable, read_request_id, readable
from ticketra import messages
from ticketra.amqp import AmqpConnection, BrokerAway
from ticketra.broker import Publication, Publisher
from ticketra.group_commit import GroupCommit
from ticketra.ids import IdSource
from ticketra.log import logger

DRAIN_LIMIT_S = 12  # and a flush and closing after it: ECS waits for 30 s
# An attempt ends within HOLD_MARGIN, since each call that it makes has a limit. Some others about
# the same booking may have their turn before it. What lasts longer than this never ends.
HANDLING_LIMIT_S = 10 * HOLD_MARGIN.total_seconds()
RECONNECT_DELAYS_S = (0.2, 0.5, 1, 2)
REASON_HEADER_LIMIT_CHARS = 300
FAILURES_LIMIT = 2**31  # no message gets that far: whatever says so is not ours

# Handles the message with this id (None if it has none) and body, and raises if it had no effect.
Handler = Callable[[str | None, bytes], Awaitable[None]]


class Subscription(NamedTuple):
    """A queue, what handles its messages, and how many of them at once, which is the prefetch."""

    queue: str
    handle: Handler
    in_flight_limit: int


class _Delivery(NamedTuple):
    tag: int
    queue: str
    properties: pika.BasicProperties
    body: bytes


class Consumer:
    """Consumes queues until it is stopped, over as many connections as that takes."""

    def __init__(
        self,
        connection: AmqpConnection,
        publisher: Publisher,
        subscriptions: Sequence[Subscription],
        mint_id: IdSource,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._subscriptions = subscriptions
        self._mint_id = mint_id
        self._copies = GroupCommit(self._publish, divides=_divides)
        # By when they began (monotonic), oldest first.
        self._in_flight: dict[asyncio.Task[None], float] = {}
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Make `run` finish what is in flight and return."""
        self._stopping.set()

    def is_stuck(self) -> bool:
        """Say whether a message is in hand for so long that only a new start helps.

        Not while the broker is away: what is in hand ends without it, and it comes back by itself.
        """
        oldest_s = next(iter(self._in_flight.values()), math.inf)
        return time.monotonic() - oldest_s > HANDLING_LIMIT_S

    async def run(self) -> None:
        """Consume until `stop` is called, then drain for at most DRAIN_LIMIT_S."""
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                await self._consume()
            except BrokerAway as error:
                logger.warning("no connection to RabbitMQ", extra={"reason": str(error)})
                # In case that only a channel was lost; the broker delivers all of it again.
                await self._connection.close()
                await self._settled()
            if time.monotonic() - began > RECONNECT_DELAYS_S[-1]:
                failures = 0
            await self._pause(RECONNECT_DELAYS_S[min(failures, len(RECONNECT_DELAYS_S) - 1)])
            failures += 1
        await self._connection.close()
        await self._publisher.close()

    async def _consume(self) -> None:
        """Consume until the connection is lost or `stop` is called.

        Raises:
            BrokerAway: there is no connection.

        """
        await self._connection.open()
        closed = self._connection.closed
        channels = [await self._subscribe(one) for one in self._subscriptions]
        logger.info("consuming", extra={"queues": [one.queue for one in self._subscriptions]})
        await self._until_stopping(closed)
        if closed.done():
            raise BrokerAway("the connection, a channel or a consumer was lost")
        await self._drain(channels)

    async def _subscribe(self, subscription: Subscription) -> Channel:
        channel = await self._connection.channel()
        await self._connection.declare(channel)
        closed = self._connection.closed

        def on_message(
            channel: Channel, method: Any, properties: pika.BasicProperties, body: bytes
        ) -> None:
            delivery = _Delivery(method.delivery_tag, subscription.queue, properties, body)
            task = asyncio.ensure_future(self._handle(subscription.handle, channel, delivery))
            self._in_flight[task] = time.monotonic()
            task.add_done_callback(self._in_flight.pop)

        def on_cancelled(_: Any) -> None:
            """The queue was deleted: start over, which declares it."""
            if not closed.done():
                closed.set_result(None)

        channel.add_on_cancel_callback(on_cancelled)
        await self._connection.call(
            lambda done: channel.basic_qos(
                prefetch_count=subscription.in_flight_limit, callback=done
            )
        )
        await self._connection.call(
            lambda done: channel.basic_consume(subscription.queue, on_message, callback=done)
        )
        return channel

    async def _drain(self, channels: Sequence[Channel]) -> None:
        """Take no more messages, and settle those in flight."""
        logger.info("stopping", extra={"in_flight": len(self._in_flight)})
        for channel in channels:
            for tag in channel.consumer_tags:
                channel.basic_cancel(tag)
        await self._settled()

    async def _settled(self) -> None:
        """Wait until nothing is in flight; once `stop` is called, for at most DRAIN_LIMIT_S.

        Every call that handling a message makes has a limit.
        """
        if not self._in_flight:
            return
        settled = asyncio.ensure_future(asyncio.wait(self._in_flight))
        await self._until_stopping(settled)
        await asyncio.wait([settled], timeout=DRAIN_LIMIT_S)
        if not settled.done():
            settled.cancel()
            logger.warning(
                "left messages to the next worker", extra={"count": len(self._in_flight)}
            )

    async def _until_stopping(self, other: "asyncio.Future[Any]") -> None:
        """Wait until `stop` is called, or for `other`."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait([other, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()

    async def _handle(self, handle: Handler, channel: Channel, delivery: _Delivery) -> None:
        error: Exception | None = None
        try:
            _refuse_unreadable(delivery.properties)
            await handle(delivery.properties.message_id, delivery.body)
        except Exception as raised:  # noqa: BLE001 - an entry point: what failed is tried again
            error = raised
        try:
            await self._settle(channel, delivery, error)
        except BrokerAway as away:
            logger.warning("a message was not settled", extra={"reason": str(away)})
            await self._connection.close()  # so that it is delivered again
        except Exception:  # noqa: BLE001 - an entry point: the next connection gets it again
            about = {"message_id": delivery.properties.message_id}
            logger.exception("a message cannot be settled", extra=about)

    async def _settle(self, channel: Channel, delivery: _Delivery, error: Exception | None) -> None:
        """Acknowledge a message, after a copy of it is where it belongs if there was an `error`.

        Raises:
            BrokerAway: the copy may not be safe.

        """
        decision = settlement(error, _failures(delivery.properties))
        if not isinstance(decision, Acknowledge):
            await self._copies.submit(self._copy(delivery, decision))
            _log_failure(delivery, decision, error)
        if channel.is_open:
            channel.basic_ack(delivery.tag)

    def _copy(self, delivery: _Delivery, decision: Retry | DeadLetter) -> Publication:
        headers: dict[str, str | int] = {
            messages.ATTEMPT_HEADER: decision.failures.attempts,
            messages.FAULTS_HEADER: decision.failures.faults,
            messages.REASON_HEADER: readable(decision.reason)[:REASON_HEADER_LIMIT_CHARS],
        }
        if isinstance(decision, Retry):
            queue = messages.retry_queue(delivery.queue, decision.delay_s)
        else:
            queue = messages.DEAD_LETTER_QUEUE
            headers[messages.QUEUE_HEADER] = delivery.queue
            headers[messages.DEAD_LETTER_ID_HEADER] = self._mint_id()
        return Publication(
            queue,
            delivery.body,
            copied(delivery.properties, headers),
            mandatory=True,
            exchange="",
        )

    async def _publish(self, copies: Sequence[Publication]) -> list[None]:
        """Put copies into their queues, and wait until the broker has all of them.

        Raises:
            BrokerAway: it has not, or a queue is missing; the next connection declares it.

        """
        safe = await self._publisher.publish(copies)
        if not safe.issuperset(copy.properties.message_id for copy in copies):
            await self._publisher.close()
            raise BrokerAway("a retry queue or the dead-letter queue is missing")
        return [None] * len(copies)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


def _divides(error: Exception) -> bool:
    """Say whether one copy of several may be to blame for `error`, and not the broker."""
    return not isinstance(error, BrokerAway)


def _refuse_unreadable(properties: pika.BasicProperties) -> None:
    why = (properties.headers or {}).get(messages.UNREADABLE_HEADER)
    if why is not None:
        raise Unparseable(f"the headers cannot be decoded: {why}")


def _failures(properties: pika.BasicProperties) -> Failures:
    headers = properties.headers or {}
    return Failures(
        _count(headers.get(messages.ATTEMPT_HEADER)), _count(headers.get(messages.FAULTS_HEADER))
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 < value < FAILURES_LIMIT else 0


def _log_failure(
    delivery: _Delivery, decision: Retry | DeadLetter, error: BaseException | None
) -> None:
    extra = {
        "message_id": delivery.properties.message_id,
        "request_id": read_request_id(delivery.body),
        "attempt": decision.failures.attempts,
        "reason": decision.reason,
        "cause": repr(error.__cause__) if error is not None and error.__cause__ else None,
    }
    foreseen = isinstance(error, Outage | Unparseable)
    exc_info = None if foreseen else error
    if isinstance(decision, DeadLetter):
        logger.error("message moved to the dead-letter queue", extra=extra, exc_info=exc_info)
    else:
        logger.warning("message will be retried", extra=extra, exc_info=exc_info)
