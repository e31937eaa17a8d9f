"""Messages with headers that RabbitMQ takes and pika cannot decode, or not into text."""

import struct
from uuid import uuid4

import pika
import pytest
from pika.adapters.asyncio_connection import AsyncioConnection

from payment.models import State
from tests.integration.payment.broker import Broker, booking_created
from tests.integration.payment.database import Database
from tests.integration.payment.letters import Command, Letters
from tests.integration.payment.worker_process import WorkerProcess, eventually
from ticketra import amqp, messages
from ticketra.amqp import AmqpConnection, BrokerAway

DEPTH = 10_000


class RawHeaders(pika.BasicProperties):  # type: ignore[misc] # pika has no types
    """Properties whose table of headers is sent as it is; no decoder has to like it."""

    def __init__(self, table: bytes, message_id: str) -> None:
        super().__init__(
            content_type="application/json",
            content_encoding="utf-8",
            headers={},
            delivery_mode=messages.PERSISTENT,
            message_id=message_id,
            type=messages.BOOKING_CREATED,
        )
        self._table = table

    def encode(self) -> list[bytes]:
        encoded = b"".join(super().encode())
        before, empty, after = encoded.partition(bytes(4))
        assert empty
        return [before, struct.pack(">L", len(self._table)), self._table, after]


def field(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + value


def nested() -> bytes:
    table = b""
    for _ in range(DEPTH):
        table = field(b"", b"F" + struct.pack(">L", len(table)) + table)
    return table


UNDECODABLE = {
    "timestamp": field(b"at", b"T" + b"\xff" * 8),
    "timestamp-in-milliseconds": field(b"at", b"T" + struct.pack(">Q", 1_700_000_000_000)),
    "nested": nested(),
    "behind-others": field(b"a", b"t\x01") + field(b"at", b"T" + b"\x7f" * 8),
}
NO_TEXT = field(b"\xff\xfe", b"t\x01") + field(b"text", b"S\0\0\0\x01\xff")


def publish(broker: Broker, tables: dict[str, bytes]) -> None:
    """Publish bookings that could be paid, but for their headers, which are named by message id."""
    broker.publish_all(
        [
            (key, body, RawHeaders(table, message_id))
            for message_id, table in tables.items()
            for key, body, _ in [booking_created(2, uuid4())]
        ]
    )


def test_a_message_whose_headers_cannot_be_decoded_stops_nothing_and_is_set_aside(
    worker: WorkerProcess,
    broker: Broker,
    database: Database,
    command: Command,
) -> None:
    publish(broker, UNDECODABLE)
    behind = broker.publish_booking(2)
    eventually(lambda: database.state(behind) == State.SUCCEEDED, "the payment behind them")
    dead = messages.DEAD_LETTER_QUEUE
    eventually(lambda: broker.ready(dead) == len(UNDECODABLE), "the dead letters")
    assert worker.times_consuming == 0, "no connection was lost over them"
    rows = command().output.splitlines()
    assert all("cannot be parsed: the headers cannot be decoded: " in row for row in rows)
    assert {row.split("message ")[1].split()[0] for row in rows} == set(UNDECODABLE)
    assert not any(database.is_received(message_id) for message_id in UNDECODABLE)

    assert command("--replay", "all").code == 0
    eventually(lambda: all(map(database.is_received, UNDECODABLE)), "all to be paid at last")


def test_headers_that_are_no_text_do_not_keep_a_message_from_being_settled(
    worker: WorkerProcess, broker: Broker, command: Command
) -> None:
    properties = RawHeaders(NO_TEXT, "no-text")
    broker.publish(b"poison", properties)
    eventually(lambda: broker.ready(messages.DEAD_LETTER_QUEUE), "the dead letter")
    discarded = command("--discard", "all").output
    assert "message no-text" in discarded
    assert "poison" in discarded


@pytest.mark.parametrize("kind", [*UNDECODABLE, "no-text"])
def test_the_command_copes_with_such_a_message_in_the_dead_letter_queue_itself(
    command: Command,
    letters: Letters,
    broker: Broker,
    kind: str,
) -> None:
    table = {**UNDECODABLE, "no-text": NO_TEXT}[kind]
    letters.put("before")
    letters.put_as_it_is(b"odd body", RawHeaders(table, kind))
    letters.put("behind")
    rows = command().output.splitlines()
    assert len(rows) == 3
    name = rows[1].split()[0]
    shown = command("--show", name).output
    assert "odd body" in shown
    if kind != "no-text":
        assert f"{messages.UNREADABLE_HEADER}: " in shown
    assert command("--replay", name).code == 1
    assert command("--discard", name).code == 0
    assert letters.left() == ["m-before", "m-behind"]


async def test_a_connection_that_knows_no_better_is_lost_over_them(
    broker: Broker, letters: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, pika reads them by itself, and TolerantConnection can go."""
    monkeypatch.setattr(amqp, "TolerantConnection", AsyncioConnection)
    letters.put_as_it_is(b"body", RawHeaders(UNDECODABLE["timestamp"], "m"))
    server = broker.server
    connection = AmqpConnection(server.url, server.username, server.password, name="test")
    await connection.open()
    channel = await connection.channel()
    with pytest.raises(BrokerAway, match="closed the connection"):
        await connection.call(
            lambda done: channel.basic_get(messages.DEAD_LETTER_QUEUE, lambda *_: done(None))
        )
    await connection.close()
