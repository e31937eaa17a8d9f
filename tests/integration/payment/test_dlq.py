"""The dead-letter command against a real RabbitMQ."""

import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence

import pika
import pytest

from payment import dlq
from payment.dlq import DeadLetterQueue, Operator
from tests.integration import servers
from tests.integration.payment.broker import Broker
from tests.integration.payment.letters import Command, Letters, rabbitmq_settings
from tests.integration.payment.worker_process import ROOT, WorkerProcess, eventually
from ticketra import messages
from ticketra.amqp import AmqpConnection
from ticketra.broker import Broker as Publisher
from ticketra.broker import Publication
from ticketra.messages import CHARGE_QUEUE, REFUND_QUEUE

MANY = 300


def environment(rabbitmq: servers.Server) -> dict[str, str]:
    """Return what the command sees as a process of its own."""
    return {
        "PYTHONPATH": f"{ROOT / 'functions'}:{ROOT / 'layers' / 'common'}",
        "PYTHONDONTWRITEBYTECODE": "1",
        **rabbitmq_settings(rabbitmq),
    }


@pytest.fixture
async def queue(rabbitmq: servers.Server) -> AsyncIterator[DeadLetterQueue]:
    opened = DeadLetterQueue(
        AmqpConnection(rabbitmq.url, rabbitmq.username, rabbitmq.password, name="test")
    )
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def publisher(rabbitmq: servers.Server) -> AsyncIterator[Publisher]:
    publisher = Publisher(rabbitmq.url, rabbitmq.username, rabbitmq.password, name="test")
    yield publisher
    await publisher.close()


def test_looking_takes_nothing_away(command: Command, letters: Letters) -> None:
    empty = command()
    assert (empty.code, empty.output) == (0, "There are no dead letters.\n")
    for name in ("a", "b", "c"):
        letters.put(name)
    listed = command()
    assert listed.code == 0
    assert [row.split()[0] for row in listed.output.splitlines()] == ["a", "b", "c"]
    shown = command("--show", "b")
    assert shown.code == 0
    assert '{\n  "n": "b"\n}' in shown.output
    assert f"{messages.REASON_HEADER}: UnexpectedAnswer: why" in shown.output
    assert "m-a" not in shown.output
    assert letters.left() == ["m-a", "m-b", "m-c"]


def test_what_is_replayed_goes_back_where_it_came_from_as_it_first_was(
    command: Command, letters: Letters
) -> None:
    for name in ("a", "b", "c"):
        letters.put(name, REFUND_QUEUE)
    replayed = command("--replay", "b")
    assert replayed.code == 0
    assert replayed.output == f"b: put back into {REFUND_QUEUE}\nreplayed: 1\n"
    [(properties, body)] = letters.taken(REFUND_QUEUE)
    assert body == b'{"n":"b"}'
    assert properties.message_id == "m-b"
    assert properties.type == messages.BOOKING_CREATED
    assert properties.content_type == "application/json"
    assert properties.delivery_mode == messages.PERSISTENT
    assert properties.headers == {"cloudEvents:specversion": "1.0"}, "it is tried anew"
    assert letters.left() == ["m-a", "m-c"]


async def test_all_are_replayed_in_order_except_who_came_from_nowhere(
    queue: DeadLetterQueue, publisher: Publisher, letters: Letters
) -> None:
    for name, origin in {
        "a": CHARGE_QUEUE,
        "lost": None,
        "b": REFUND_QUEUE,
        "strange": "payment.elsewhere",
        "c": CHARGE_QUEUE,
    }.items():
        letters.put(name, origin)
    said: list[str] = []
    assert await Operator(queue, publisher, said.append).replay("all") == dlq.EXIT_REFUSED
    refused = (
        "{0}: not replayed: it names no queue that it came from (x-ticketra-queue);"
        " make dlq SHOW={0} shows it"
    )
    assert said == [
        f"a: put back into {CHARGE_QUEUE}",
        refused.format("lost"),
        f"b: put back into {REFUND_QUEUE}",
        refused.format("strange"),
        f"c: put back into {CHARGE_QUEUE}",
        "replayed: 3, refused: 2",
    ]
    await queue.close()
    assert letters.left(CHARGE_QUEUE) == ["m-a", "m-c"]
    assert letters.left(REFUND_QUEUE) == ["m-b"]
    assert letters.left() == ["m-lost", "m-strange"]


async def test_what_comes_back_at_once_is_not_replayed_for_ever(
    queue: DeadLetterQueue, publisher: Publisher, letters: Letters
) -> None:
    class Failing:
        """The work queue's consumer, which sets every message aside again."""

        async def publish(self, batch: Sequence[Publication]) -> set[str]:
            letters.put("again")
            return await publisher.publish(batch)

        async def close(self) -> None:
            """Nothing is open."""

    for name in ("a", "b"):
        letters.put(name)
    said: list[str] = []
    assert await Operator(queue, Failing(), said.append).replay("all") == dlq.EXIT_DONE
    assert said[-1] == "replayed: 2"
    assert letters.left() == ["m-again", "m-again"]


async def test_what_rabbitmq_does_not_take_stays(queue: DeadLetterQueue, letters: Letters) -> None:
    class Refusing:
        async def publish(self, batch: Sequence[Publication]) -> set[str]:
            return set()

        async def close(self) -> None:
            """Nothing is open."""

    letters.put("a")
    said: list[str] = []
    assert await Operator(queue, Refusing(), said.append).replay("a") == dlq.EXIT_REFUSED
    assert said == [
        f"a: not replayed: the queue {CHARGE_QUEUE} is missing",
        "replayed: 0, refused: 1",
    ]
    await queue.close()
    assert letters.left() == ["m-a"]


def test_what_is_discarded_is_printed_and_gone(command: Command, letters: Letters) -> None:
    for name in ("a", "b", "c"):
        letters.put(name)
    one = command("--discard", "b")
    assert one.code == 0
    assert '"n": "b"' in one.output
    assert one.output.endswith("discarded: 1\n")
    assert letters.count() == 2
    rest = command("--discard", "all")
    assert rest.code == 0
    assert '"n": "a"' in rest.output
    assert '"n": "c"' in rest.output
    assert "b" not in rest.output.split()
    assert letters.left() == []


def test_a_letter_put_there_by_other_hands_can_be_dealt_with(
    command: Command, letters: Letters
) -> None:
    letters.put(None, body=b"\xff")
    name = command().output.split()[0]
    assert name.startswith("sha256-")
    assert "\nff\n" in command("--show", name).output
    assert command("--replay", name).code == 0
    assert [body for _, body in letters.taken(CHARGE_QUEUE)] == [b"\xff"]
    for option in ("--show", "--replay", "--discard"):
        absent = command(option, name)
        assert absent.code == 1
        assert absent.output == f"There is no dead letter {name}; make dlq lists them.\n"


async def test_not_more_is_in_hand_than_the_limit(
    queue: DeadLetterQueue,
    publisher: Publisher,
    letters: Letters,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dlq, "IN_HAND_LIMIT", 3)
    for number in range(5):
        letters.put(f"{number}", None if number < 2 else CHARGE_QUEUE)
    said: list[str] = []
    operator = Operator(queue, publisher, said.append)
    await operator.show_all()
    assert [row.split()[0] for row in said[:3]] == ["0", "1", "2"]
    assert said[3:] == ["2 more are behind these; deal with some of these first."]
    assert letters.count() == 2, "the others are in nobody's hands"
    await queue.close()

    await queue.open()
    assert await operator.replay("all") == dlq.EXIT_REFUSED
    assert said[-1] == "replayed: 3, refused: 2", "what was replayed is not in hand any more"


def test_killed_in_the_middle_it_loses_nothing_and_keeps_the_order(
    rabbitmq: servers.Server, letters: Letters
) -> None:
    for number in range(MANY):
        letters.put(f"{number:03}", None if number % 10 == 0 else CHARGE_QUEUE)
    process = subprocess.Popen(
        [sys.executable, "-m", "payment.dlq", "--replay", "all"],
        env=environment(rabbitmq),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        for _ in itertools.islice(process.stdout, 50):
            pass
        process.kill()
    eventually(
        lambda: letters.count() + letters.count(CHARGE_QUEUE) >= MANY, "all are in a queue again"
    )
    back, left = letters.left(CHARGE_QUEUE), letters.left()
    assert 45 <= len(back) < MANY
    assert back == sorted(back)
    assert left == sorted(left)
    assert {*back, *left} == {f"m-{number:03}" for number in range(MANY)}
    assert len({*back} & {*left}) <= 1, "at most the one that was in hand is in both"


def test_a_reader_that_has_seen_enough_is_no_error(
    rabbitmq: servers.Server, letters: Letters
) -> None:
    letters.put("a", CHARGE_QUEUE)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "payment.dlq"],
        env=environment(rabbitmq),
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    assert letters.left() == ["m-a"]


def test_a_rabbitmq_that_is_away_is_said_to_be(
    rabbitmq: servers.Server, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RABBITMQ_URL", f"amqp://127.0.0.1:{servers.free_port()}/")
    done = command()
    assert done.code == 2
    assert done.error.startswith("The dead letters could not be dealt with: RabbitMQ is away")
    assert rabbitmq.password not in done.error


def test_a_poisonous_message_can_be_looked_at_tried_again_and_discarded(
    command: Command, letters: Letters, worker: WorkerProcess, broker: Broker
) -> None:
    broker.publish(b"{", pika.BasicProperties(message_id="poison"))
    eventually(letters.count, "the dead letter")
    first = command().output
    assert "attempts 1  message poison" in first
    name = first.split()[0]
    assert command("--replay", name).code == 0
    eventually(letters.count, "it fails again")
    again = command().output
    assert "attempts 1  message poison" in again, "it was tried anew, not once more"
    assert name not in again
    assert command("--discard", "all").code == 0
