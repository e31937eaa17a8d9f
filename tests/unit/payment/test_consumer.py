"""When a message is settled, and what its copy carries, with a broker that the test controls."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast
from uuid import UUID

import pika
import pytest

from payment import consumer
from payment.consumer import REASON_HEADER_LIMIT_CHARS, Consumer, Subscription, _Delivery
from payment.logic import FAULT_LIMIT
from payment.models import Outage, Unparseable
from tests.unit.common.logs import Logs
from ticketra import messages
from ticketra.amqp import AmqpConnection, BrokerAway
from ticketra.broker import Publication
from ticketra.ids import IdSource

TAG = 7
DEAD = messages.DEAD_LETTER_QUEUE


class Connection:
    """Says whether it was closed."""

    closes = 0

    async def close(self) -> None:
        self.closes += 1


class Channel:
    """Keeps the tags that were acknowledged."""

    def __init__(self) -> None:
        self.is_open = True
        self.acknowledged: list[int] = []

    def basic_ack(self, tag: int) -> None:
        assert self.is_open
        self.acknowledged.append(tag)


class Publisher:
    """Takes copies once it may, except while it is `away`, or those that it `returns`."""

    def __init__(self) -> None:
        self.copies: list[Publication] = []
        self.may_confirm = asyncio.Event()
        self.may_confirm.set()
        self.away = False
        self.returns = False
        self.closes = 0

    async def publish(self, batch: Sequence[Publication]) -> set[str]:
        await self.may_confirm.wait()
        if self.away:
            raise BrokerAway("away")
        if self.returns:
            return set()
        self.copies += batch
        return {publication.properties.message_id for publication in batch}

    async def close(self) -> None:
        self.closes += 1


class Setting:
    """A consumer and all that it touches."""

    def __init__(self) -> None:
        self.connection, self.channel, self.publisher = Connection(), Channel(), Publisher()
        self._consumer = Consumer(
            cast("AmqpConnection", self.connection), self.publisher, (), IdSource()
        )

    async def handle(
        self,
        error: Exception | None,
        properties: pika.BasicProperties | None = None,
        queue: str = messages.CHARGE_QUEUE,
    ) -> None:
        async def handler(message_id: str | None, body: bytes) -> None:
            if error is not None:
                raise error

        delivery = _Delivery(
            TAG, queue, properties or pika.BasicProperties(message_id="m1"), b"body"
        )
        async with asyncio.timeout(5):
            await self._consumer._handle(handler, cast("Any", self.channel), delivery)

    @property
    def copy(self) -> Publication:
        (copy,) = self.publisher.copies
        return copy


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - whatever it is
            await asyncio.sleep(0)


async def test_a_message_that_had_its_effect_is_acknowledged_and_not_copied() -> None:
    setting = Setting()
    await setting.handle(None)
    assert setting.channel.acknowledged == [TAG]
    assert setting.publisher.copies == []


@pytest.mark.parametrize("queue", [messages.CHARGE_QUEUE, messages.REFUND_QUEUE])
async def test_what_failed_comes_back_to_its_own_queue(queue: str) -> None:
    setting = Setting()
    await setting.handle(Outage("booking is away"), queue=queue)
    assert (setting.copy.exchange, setting.copy.mandatory) == ("", True)
    assert setting.copy.routing_key == messages.retry_queue(queue, messages.RETRY_DELAYS_S[0])
    assert setting.copy.body == b"body"
    assert setting.copy.properties.headers == {
        messages.ATTEMPT_HEADER: 1,
        messages.FAULTS_HEADER: 0,
        messages.REASON_HEADER: "booking is away",
    }
    assert setting.channel.acknowledged == [TAG]


@pytest.mark.parametrize(
    ("error", "failed", "reason"),
    [
        (Unparseable("no id"), 0, "cannot be parsed: no id"),
        (RuntimeError("a bug"), FAULT_LIMIT - 1, "RuntimeError: a bug"),
    ],
)
@pytest.mark.parametrize("queue", [messages.CHARGE_QUEUE, messages.REFUND_QUEUE])
async def test_a_dead_letter_says_where_it_came_from_and_why(
    error: Exception, failed: int, reason: str, queue: str
) -> None:
    setting = Setting()
    failures = {messages.ATTEMPT_HEADER: failed + 5, messages.FAULTS_HEADER: failed}
    properties = pika.BasicProperties(message_id="m1", headers={**failures, "x-death": [{}]})
    await setting.handle(error, properties, queue)
    assert setting.copy.routing_key == DEAD
    headers = dict(setting.copy.properties.headers)
    assert UUID(headers.pop(messages.DEAD_LETTER_ID_HEADER)).version == 7
    assert headers == {
        messages.ATTEMPT_HEADER: failed + 6,
        messages.FAULTS_HEADER: failed + 1,
        messages.REASON_HEADER: reason,
        messages.QUEUE_HEADER: queue,
    }


async def test_a_copy_keeps_what_a_cloud_event_needs_and_nothing_else() -> None:
    setting = Setting()
    properties = pika.BasicProperties(
        content_type="application/json",
        message_id="m1",
        type="booking.created",
        user_id="somebody-else",
        expiration="1",
        headers={
            "cloudEvents:id": "m1",
            "cloudEvents:subject": "s" * 100_000,
            "cloudEvents:source": {"nested": [None]},
            **{f"cloudEvents:{number}": "v" for number in range(1_000)},
            "other": "h" * 100_000,
            "x-first-death-queue": "q",
        },
    )
    await setting.handle(Outage("x" * 1_000), properties)
    copied = setting.copy.properties
    assert (copied.content_type, copied.message_id, copied.type) == (
        "application/json",
        "m1",
        "booking.created",
    )
    assert copied.delivery_mode == messages.PERSISTENT
    assert (copied.user_id, copied.expiration) == (None, None)
    assert copied.headers == {
        "cloudEvents:id": "m1",
        messages.ATTEMPT_HEADER: 1,
        messages.FAULTS_HEADER: 0,
        messages.REASON_HEADER: "x" * REASON_HEADER_LIMIT_CHARS,
    }


@pytest.mark.parametrize("odd", ["2", -1, None, 2**63 - 1], ids=repr)
@pytest.mark.parametrize("header", [messages.ATTEMPT_HEADER, messages.FAULTS_HEADER])
async def test_an_odd_count_of_failures_counts_as_none(header: str, odd: object) -> None:
    setting = Setting()
    properties = pika.BasicProperties(message_id="m1", headers={header: odd})
    await setting.handle(RuntimeError("a bug"), properties)
    assert setting.copy.properties.headers[header] == 1


async def test_a_message_is_acknowledged_only_after_its_copy_is_safe() -> None:
    setting = Setting()
    setting.publisher.may_confirm.clear()
    handling = asyncio.ensure_future(setting.handle(Outage("away")))
    for _ in range(50):
        await asyncio.sleep(0)
    assert setting.channel.acknowledged == []
    setting.publisher.may_confirm.set()
    await handling
    assert setting.channel.acknowledged == [TAG]


@pytest.mark.parametrize("trouble", ["away", "returns"])
async def test_a_message_whose_copy_is_not_safe_is_left_to_be_delivered_again(
    trouble: str,
) -> None:
    setting = Setting()
    setattr(setting.publisher, trouble, True)
    await setting.handle(Unparseable("poison"))
    assert setting.channel.acknowledged == []
    assert setting.connection.closes == 1
    assert setting.publisher.closes == int(trouble == "returns"), "the next one declares queues"


@pytest.mark.parametrize("error", [None, Outage("away")])
async def test_nothing_is_acknowledged_on_a_channel_that_is_closed(
    error: Exception | None,
) -> None:
    setting = Setting()
    setting.channel.is_open = False
    await setting.handle(error)
    assert setting.channel.acknowledged == []


async def test_copies_of_many_messages_share_a_batch() -> None:
    setting = Setting()
    batches: list[int] = []
    publish: Callable[[Sequence[Publication]], Awaitable[set[str]]] = setting.publisher.publish

    async def counted(batch: Sequence[Publication]) -> set[str]:
        batches.append(len(batch))
        return await publish(batch)

    setting.publisher.publish = counted  # type: ignore[method-assign]
    setting.publisher.may_confirm.clear()
    first = asyncio.ensure_future(setting.handle(Unparseable("poison")))
    await until(lambda: batches)
    others = [asyncio.ensure_future(setting.handle(Unparseable("poison"))) for _ in range(20)]
    for _ in range(50):
        await asyncio.sleep(0)
    setting.publisher.may_confirm.set()
    await asyncio.gather(first, *others)
    assert batches == [1, 20]
    assert setting.channel.acknowledged == [TAG] * 21


async def test_a_copy_that_cannot_be_sent_holds_up_no_other_and_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting, logs = Setting(), Logs(monkeypatch)
    publish: Callable[[Sequence[Publication]], Awaitable[set[str]]] = setting.publisher.publish

    async def checked(batch: Sequence[Publication]) -> set[str]:
        if any(copy.properties.message_id == "bad" for copy in batch):
            raise ValueError("cannot be encoded")
        return await publish(batch)

    setting.publisher.publish = checked  # type: ignore[method-assign]
    ids = ("m1", "bad", "m2")
    await asyncio.gather(
        *(setting.handle(Outage("away"), pika.BasicProperties(message_id=one)) for one in ids)
    )
    assert [copy.properties.message_id for copy in setting.publisher.copies] == ["m1", "m2"]
    assert setting.channel.acknowledged == [TAG] * 2
    assert setting.connection.closes == 0
    assert [line["message_id"] for line in logs.lines("ERROR")] == ["bad"]


async def test_a_reason_is_text_that_can_be_sent_whatever_the_error_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # pytest's workers cannot pass on what is logged here.
    monkeypatch.setattr("payment.consumer._log_failure", lambda *_: None)
    setting = Setting()
    await setting.handle(RuntimeError("\ud800\x1b[2J"))
    reason = setting.copy.properties.headers[messages.REASON_HEADER]
    assert reason == "RuntimeError:   [2J"
    assert b"RuntimeError" in b"".join(setting.copy.properties.encode())


class Consumed:
    """A channel that delivers one message as soon as it is consumed."""

    is_open = True
    consumer_tags = ("consumer",)

    def add_on_cancel_callback(self, _: object) -> None:
        pass

    def basic_qos(self, *, prefetch_count: int, callback: Callable[[None], None]) -> None:
        callback(None)

    def basic_consume(
        self, queue: str, on_message: Callable[..., None], callback: Callable[[None], None]
    ) -> None:
        method = pika.spec.Basic.Deliver(delivery_tag=TAG)
        on_message(self, method, pika.BasicProperties(message_id="m1"), b"body")
        callback(None)

    def basic_cancel(self, _: str) -> None:
        pass


class Connections:
    """Opens connections that have so many channels; what is asked for beyond that loses them."""

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self.opened: list[asyncio.Future[None]] = []
        self._left = 0

    @property
    def closed(self) -> "asyncio.Future[None]":
        return self.opened[-1]

    async def open(self) -> None:
        self.opened.append(asyncio.get_running_loop().create_future())
        self._left = self._channels

    async def channel(self) -> Consumed:
        if not self._left:
            raise BrokerAway("lost")
        self._left -= 1
        return Consumed()

    async def declare(self, _: Consumed) -> None:
        pass

    async def call(self, method: Callable[[Callable[[Any], None]], object]) -> None:
        method(lambda _: None)

    async def close(self) -> None:
        pass


class Hanging:
    """Handles two queues, over `connections`, each message only once it may be."""

    def __init__(self, connections: Connections) -> None:
        self.may_end = asyncio.Event()
        self.in_hand = 0
        self.consumer = Consumer(
            cast("AmqpConnection", connections),
            Publisher(),
            [
                Subscription(queue, self._handle, 1)
                for queue in (messages.CHARGE_QUEUE, messages.REFUND_QUEUE)
            ],
            IdSource(),
        )

    async def _handle(self, message_id: str | None, body: bytes) -> None:
        self.in_hand += 1
        await self.may_end.wait()
        self.in_hand -= 1


async def test_what_is_in_hand_ends_before_more_is_taken_however_the_connection_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consumer, "RECONNECT_DELAYS_S", (0,))
    connections = Connections(channels=1)
    hanging = Hanging(connections)
    running = asyncio.ensure_future(hanging.consumer.run())
    await until(lambda: hanging.in_hand)
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert len(connections.opened) == 1
    hanging.may_end.set()
    await until(lambda: len(connections.opened) > 1)
    hanging.consumer.stop()
    await running


@pytest.mark.parametrize("is_lost", [True, False])
async def test_who_is_told_to_stop_waits_for_a_while_only_for_what_is_in_hand(
    is_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "DRAIN_LIMIT_S", 0.01)
    connections = Connections(channels=2)
    hanging = Hanging(connections)
    running = asyncio.ensure_future(hanging.consumer.run())
    await until(lambda: hanging.in_hand == 2)
    if is_lost:
        connections.closed.set_result(None)
        for _ in range(50):
            await asyncio.sleep(0)
    hanging.consumer.stop()
    async with asyncio.timeout(5):
        await running
    assert hanging.in_hand == 2
    hanging.may_end.set()
    await until(lambda: not hanging.in_hand)


async def test_a_message_that_is_in_hand_beyond_all_limits_is_seen_until_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hanging = Hanging(Connections(channels=2))
    running = asyncio.ensure_future(hanging.consumer.run())
    await until(lambda: hanging.in_hand == 2)
    assert not hanging.consumer.is_stuck()
    monkeypatch.setattr(consumer, "HANDLING_LIMIT_S", -1)
    assert hanging.consumer.is_stuck()
    hanging.may_end.set()
    await until(lambda: not hanging.consumer.is_stuck())
    hanging.consumer.stop()
    await running


async def test_who_cannot_reach_the_broker_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "RECONNECT_DELAYS_S", (0,))
    monkeypatch.setattr(consumer, "HANDLING_LIMIT_S", -1)
    connections = Connections(channels=0)
    hanging = Hanging(connections)
    running = asyncio.ensure_future(hanging.consumer.run())
    await until(lambda: len(connections.opened) > 5)
    assert not hanging.consumer.is_stuck()
    hanging.consumer.stop()
    await running
