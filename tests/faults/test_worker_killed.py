"""kill -9 of the payment worker at many points of its work, with messages repeated and mixed.

Each round makes bookings, repeats and shuffles the messages that wait, lets some buyers cancel and
some holds end, and starts a worker that dies at a point which is drawn by lot.
"""

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import grpc
import pika
import pytest

from booking.booking_store import BookingStore
from booking.holds import Sweeper
from payment.logic import HOLD_MARGIN
from tests.concurrency import books
from tests.faults import accounts
from tests.faults.workers import Workers, worker_environment
from tests.integration import servers
from tests.integration.booking_task import (
    BookingTask,
    Client,
    booking_tasks,
    migrate_postgres,
    orders,
)
from tests.integration.servers import PASSWORD, Server
from ticketra import messages
from ticketra.database import Database
from ticketra.ids import IdSource

KILLS = int(os.environ.get("FAULT_KILLS", "40"))
SEED = int(os.environ.get("FAULT_SEED", "20261122"))
BOOKINGS_PER_ROUND = 4
# A booking that is paid passes about 14, a message that comes once more about 6. A worker that died
# sooner, always, would leave more messages than it took, and the next ones would only begin them.
POINTS_PER_MESSAGE = 8
FLAWED_POINT_LIMIT = 60  # the flaws show in the first steps of a payment
IDLE_LIMIT_S = 4.0
END_LIMIT_S = 120.0
FLAWED_LIMIT_S = 6.0
POLL_S = 0.05
MULTIPLIED = "cloudEvents:multiplied"  # an attribute, so that it stays on copies
LATE = 3  # of each kind, the payments that end after the hold for sure
# A second longer than a hold that has to be extended, so that later attempts find out what ended.
HOLD_TTL_S = int(HOLD_MARGIN.total_seconds()) + 1


class Waiting(NamedTuple):
    """A message in a queue."""

    queue: str
    properties: pika.BasicProperties
    body: bytes


class Queues:
    """The worker's queues, over one connection."""

    def __init__(self, rabbitmq: Server) -> None:
        parameters = pika.URLParameters(rabbitmq.url)
        parameters.credentials = pika.PlainCredentials(rabbitmq.username, rabbitmq.password)
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()

    def take_all(self) -> list[Waiting]:
        """Take every message out of the two work queues."""
        taken = []
        for queue in (messages.CHARGE_QUEUE, messages.REFUND_QUEUE):
            while True:
                method, properties, body = self._channel.basic_get(queue, auto_ack=True)
                if method is None:
                    break
                taken.append(Waiting(queue, properties, body))
        return taken

    def put(self, waiting: Waiting) -> None:
        """Put a message into its queue, marked as repeated enough."""
        waiting.properties.headers = {**(waiting.properties.headers or {}), MULTIPLIED: "yes"}
        self._channel.basic_publish("", waiting.queue, waiting.body, waiting.properties)

    def waiting(self) -> int:
        """Return how many messages wait in any queue; those in a worker's hand do not count."""
        return sum(
            self._channel.queue_declare(queue.name, passive=True).method.message_count
            for queue in messages.QUEUES
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Made(NamedTuple):
    """A booking that was made."""

    id: str
    event_id: str
    ticket_count: int


@dataclass
class Trial:
    """One run of the whole: rounds, then a worker that lives, then the judgement."""

    postgres: Server
    task: BookingTask
    client: Client
    queues: Queues
    workers: Workers
    rng: random.Random
    event_ids: list[str] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)
    taken_again: list[Made] = field(default_factory=list)
    gone: list[Made] = field(default_factory=list)
    takers: list[Made] = field(default_factory=list)
    told: dict[str, list[str]] = field(default_factory=dict)
    ended: "Counter[str]" = field(default_factory=Counter)

    def pay_late(self) -> None:
        """Have workers die between charges and confirmations, and the holds end then.

        Of every second booking somebody else takes the tickets, and nobody cancels any of them. The
        messages wait for the rounds.
        """
        waiting: list[Waiting] = []
        for number in range(2 * LATE):
            event_id = f"late-{number}"
            self.event_ids.append(event_id)
            self.client.put_sale(event_id, 2)
            late = self._create(event_id, 2)
            self._wait_until_published()
            self.workers.start("confirm")
            assert self.workers.end(END_LIMIT_S, "kill") == "killed"
            waiting += self._taken_back()
            self._expire([late])
            if number % 2:
                self.gone.append(late)
                self._take(event_id, 2)
                self._wait_until_published()
                waiting += self.queues.take_all()
            else:
                self.taken_again.append(late)
        for message in waiting:
            self.queues.put(message)

    def round(self, flaw: str = "") -> None:
        """Make work, repeat and shuffle it, and have a worker die over it."""
        counts = [self.rng.choice((1, 1, 2, 3, 5, 6, 9)) for _ in range(BOOKINGS_PER_ROUND)]
        event_id = f"killed-{len(self.event_ids)}"
        self.event_ids.append(event_id)
        self.client.put_sale(event_id, sum(counts))  # it is sold out then
        for count in counts:
            self._book(event_id, count)
        self._cancel_one()
        self._wait_until_published()
        self._end_holds()
        # Some may still be on their way back from the worker that died.
        waiting = max(self._shuffle(), BOOKINGS_PER_ROUND)
        points = FLAWED_POINT_LIMIT if flaw else POINTS_PER_MESSAGE * waiting
        self.workers.start(self.rng.randrange(1, points), flaw)
        self.ended[self.workers.end(IDLE_LIMIT_S, "kill")] += 1

    def finish(self, flaw: str = "", limit_s: float = END_LIMIT_S) -> "Counter[str]":
        """Let a worker live until nothing is left to do, and judge what came of everything."""
        self.workers.start(0, flaw)
        deadline = time.monotonic() + limit_s
        with orders(self.postgres) as connection:
            while accounts.unfinished(connection, self.event_ids) or self.queues.waiting():
                if time.monotonic() > deadline:
                    break
                time.sleep(POLL_S)
            assert self.workers.end(0.5, "stop") == "idle ended 0"
            found = books.read(connection, self.event_ids)
            books.check(found)
            self.told = {late.id: found.history(late.id) for late in self.taken_again + self.gone}
            met = accounts.check(connection, self.event_ids)
        assert self.queues.waiting() == 0, "messages are left"
        return met

    @property
    def booked(self) -> list[Made]:
        """All bookings."""
        return self.made + self.taken_again + self.gone + self.takers

    def unfinished(self) -> int:
        """Return how many bookings have not come to an end."""
        with orders(self.postgres) as connection:
            return accounts.unfinished(connection, self.event_ids)

    def _book(self, event_id: str, count: int) -> None:
        self.made.append(self._create(event_id, count))

    def _take(self, event_id: str, count: int) -> None:
        """Book what has come back; the task hears of that a moment later."""
        deadline = time.monotonic() + END_LIMIT_S
        taken = len(self.takers)
        while len(self.takers) == taken:
            assert time.monotonic() < deadline, "the tickets do not come back"
            with suppress_refusals():
                self.takers.append(self._create(event_id, count))

    def _create(self, event_id: str, count: int) -> Made:
        user = f"user-of-{event_id}-{len(self.made)}"
        return Made(self.client.create(event_id, count, user=user).booking.id, event_id, count)

    def _cancel_one(self) -> None:
        """A buyer gives the tickets back, paid or not."""
        with suppress_refusals():
            self.client.cancel(self.rng.choice(self.made).id)

    def _end_holds(self) -> None:
        """Two bookings that were made lately expire, unless they have come to an end.

        Somebody else takes the tickets of one of them, so that a late payment finds them gone.
        """
        recent = self.made[-2 * BOOKINGS_PER_ROUND :]
        chosen = [self.rng.choice(recent), self.rng.choice(recent[-BOOKINGS_PER_ROUND:])]
        self._expire(chosen)
        with suppress_refusals():
            self._book(chosen[0].event_id, chosen[0].ticket_count)

    def _expire(self, chosen: list[Made]) -> None:
        """Let holds end, as far as they have not come to an end."""
        with orders(self.postgres) as connection:
            connection.execute(
                "UPDATE bookings SET hold_expires_at = now()"
                " WHERE id = ANY(%s::uuid[]) AND status = 'PENDING'",
                [[booking.id for booking in chosen]],
            )
        asyncio.run(_sweep(self.postgres))

    def _taken_back(self) -> list[Waiting]:
        """Take the message that the broker has back from a worker that died."""
        deadline = time.monotonic() + END_LIMIT_S
        while not (taken := self.queues.take_all()):
            assert time.monotonic() < deadline, "the message does not come back"
            time.sleep(POLL_S)
        return taken

    def _wait_until_published(self) -> None:
        deadline = time.monotonic() + END_LIMIT_S
        with orders(self.postgres) as connection:
            while connection.execute(
                "SELECT FROM outbox WHERE published_at IS NULL LIMIT 1"
            ).fetchone():
                assert time.monotonic() < deadline, "the outbox does not empty"
                time.sleep(POLL_S)

    def _shuffle(self) -> int:
        """Have each message delivered one to five times, and none in its place; count them."""
        waiting = []
        for message in self.queues.take_all():
            is_new = MULTIPLIED not in (message.properties.headers or {})
            waiting += [message] * (self.rng.randrange(1, 6) if is_new else 1)
        self.rng.shuffle(waiting)
        for message in waiting:
            self.queues.put(message)
        return len(waiting)


@contextmanager
def suppress_refusals() -> Iterator[None]:
    """Let a booking task refuse what is asked of it, and nothing else go wrong."""
    try:
        yield
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error  # noqa: PT017


async def _sweep(postgres: Server) -> None:
    """Expire what is due at once: the task has a grace after its start."""
    database = Database(f"{postgres.url}/orders", "booking", PASSWORD, name="booking-sweep")
    database.available = True
    await database.open()
    try:
        store = BookingStore(database, IdSource())
        await Sweeper(store, HOLD_TTL_S, HOLD_TTL_S, lambda: None).sweep()
    finally:
        await database.close()


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with servers.redis_server() as server:
        yield server


@contextmanager
def trial(redis: Server, directory: Path, *, seed: int) -> Iterator[Trial]:
    """Run the servers and a booking task for a trial of its own."""
    with (
        servers.postgres() as postgres,
        servers.rabbitmq() as rabbitmq,
    ):
        migrate_postgres(postgres)
        with (
            booking_tasks(
                postgres, redis, rabbitmq, directory, HOLD_TTL_S=str(HOLD_TTL_S)
            ) as tasks,
            tasks[0].channel() as channel,
        ):
            client = Client(channel)
            queues = Queues(rabbitmq)
            workers = Workers(
                {**worker_environment(tasks[0], directory), "LOG_LEVEL": "WARNING"},
                directory / "workers.log",
            )
            try:
                yield Trial(postgres, tasks[0], client, queues, workers, random.Random(seed))
            finally:
                workers.close()
                queues.close()


@pytest.mark.timeout(900)
def test_every_booking_comes_to_one_end_and_is_charged_at_most_once(
    redis: Server, tmp_path: Path
) -> None:
    with trial(redis, tmp_path, seed=SEED) as one:
        one.pay_late()
        while one.ended["killed"] < KILLS:
            one.round()
        assert one.unfinished() < len(one.booked) / 2, "they die at the first steps only"
        met = one.finish()
    assert sum(met.values()) == len(one.booked), "no booking is lost"
    assert met["CONFIRMED paid"] > 0
    assert met["CANCELLED declined"] > 0
    assert met["CANCELLED refunded"] > 0
    assert met["EXPIRED declined"] > 0
    assert len(one.taken_again) == len(one.gone) == LATE
    assert met["EXPIRED refunded"] >= LATE
    for booking in one.taken_again:
        assert one.told[booking.id] == ["booking.created", "booking.expired", "booking.confirmed"]
    for booking in one.gone:
        assert one.told[booking.id] == ["booking.created", "booking.expired"]
    sys.stdout.write(f"workers: {dict(one.ended)}; {len(one.booked)} bookings: {dict(met)}\n")


@pytest.mark.parametrize("flaw", ["acknowledge_first", "charge_anew", "take_silence_for_a_decline"])
def test_a_flawed_worker_would_be_found_out(redis: Server, tmp_path: Path, flaw: str) -> None:
    with trial(redis, tmp_path, seed=SEED) as one:
        for _ in range(8):
            one.round(flaw)
        with pytest.raises(AssertionError, match=r"not an end|charged twice"):
            one.finish(flaw, FLAWED_LIMIT_S)
