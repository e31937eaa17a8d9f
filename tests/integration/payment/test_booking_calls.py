"""The calls that payment makes of booking, over a connection that does what connections do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from payment.bookings import Bookings
from payment.logic import Answer
from payment.models import Outage
from tests.integration import servers
from tests.integration.payment.fake_booking import CREDENTIAL, FakeBooking
from ticketra.errors import Conflict

LIMIT_S = 20


class Wire:
    """Forwards connections to booking, until it is cut: then nothing comes through any more."""

    def __init__(self, endpoint: str) -> None:
        self._host, _, self._port = endpoint.rpartition(":")
        self._open: list[asyncio.Task[None]] = []
        self.endpoint = f"127.0.0.1:{servers.free_port()}"

    @asynccontextmanager
    async def laid(self) -> AsyncIterator["Wire"]:
        server = await asyncio.start_server(self._forward, "127.0.0.1", self._own_port())
        async with server:
            yield self
            self.cut()

    def cut(self) -> None:
        """Stop forwarding on the connections that there are, without closing any."""
        for task in self._open:
            task.cancel()
        self._open.clear()

    def _own_port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, int(self._port))
        self._open += [
            asyncio.create_task(_copy(reader, far_writer)),
            asyncio.create_task(_copy(far_reader, writer)),
        ]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


@pytest.fixture
async def bookings(booking: FakeBooking) -> AsyncIterator[Bookings]:
    bookings = Bookings(booking.endpoint, CREDENTIAL)
    yield bookings
    await bookings.close()


async def test_what_is_confirmed_at_the_same_time_goes_in_few_calls(
    booking: FakeBooking, bookings: Bookings
) -> None:
    ids = [uuid4() for _ in range(700)]
    answers = await asyncio.gather(*(bookings.confirm(id_, "test") for id_ in ids))
    assert set(answers) == {(Answer.BOOKING_CONFIRMED, "")}
    assert booking.batch_sizes == [500, 200]
    assert booking.confirmed == dict.fromkeys(ids, 1)


async def test_one_that_a_batch_leaves_out_is_asked_for_alone(
    booking: FakeBooking, bookings: Bookings
) -> None:
    gone, sold = uuid4(), uuid4()
    booking.refusals[gone] = Conflict("tickets_gone", "Its tickets were sold.")
    answers = await asyncio.gather(*(bookings.confirm(id_, "test") for id_ in (gone, sold)))
    assert answers == [
        (Answer.BOOKING_GONE, "Its tickets were sold."),
        (Answer.BOOKING_CONFIRMED, ""),
    ]


async def test_a_batch_without_an_answer_is_an_outage_for_each(booking: FakeBooking) -> None:
    bookings = Bookings(booking.endpoint, "wrong")
    calls = (bookings.confirm(uuid4(), "test") for _ in range(3))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    await bookings.close()
    assert [type(answer) for answer in answers] == [Outage] * 3


async def test_a_connection_that_died_unnoticed_is_given_up(
    booking: FakeBooking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("payment.bookings.CALL_DEADLINE_S", 1)
    monkeypatch.setattr("payment.bookings.KEEPALIVE_S", 1)
    async with Wire(booking.endpoint).laid() as wire:
        bookings = Bookings(wire.endpoint, CREDENTIAL)
        assert await bookings.confirm(uuid4(), "test") == (Answer.BOOKING_CONFIRMED, "")
        wire.cut()
        failures = 0
        async with asyncio.timeout(LIMIT_S):
            while True:
                try:
                    await bookings.confirm(uuid4(), "test")
                except Outage:
                    failures += 1
                else:
                    break
        assert failures, "the connection was cut"
        await bookings.close()
