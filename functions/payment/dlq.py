"""The dead letters: `python -m payment.dlq [--show ID | --replay ID|all | --discard ID|all]`.

Without an option it lists them. Exits 0 if all was done, 1 if there is no such dead letter or one
was refused, and 2 if RabbitMQ cannot be reached.

A dead letter is taken from the queue only after it is safe in the queue that it came from, or was
printed. The others are given back in their order when the command ends, however it ends.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import pika
from pika.channel import Channel
from pika.exceptions import AMQPError

from payment.copies import copied
from payment.dead_letters import EVERY, DeadLetter, full_text, line
from payment.settings import RabbitMQSettings
from ticketra.amqp import AmqpConnection, BrokerAway
from ticketra.broker import Broker, Publication, Publisher
from ticketra.messages import DEAD_LETTER_QUEUE, QUEUE_HEADER
from ticketra.settings import SettingsError, load_settings

EXIT_DONE, EXIT_REFUSED, EXIT_AWAY = 0, 1, 2
# As long as they are looked at they are in nobody else's hands, so not too many are taken.
IN_HAND_LIMIT = 5_000

Say = Callable[[str], None]


class Taken(NamedTuple):
    """A dead letter in hand; it goes back unless `tag` is acknowledged."""

    tag: int
    letter: DeadLetter


class Handled(NamedTuple):
    """How many dead letters were meant, and how many of those are gone now."""

    chosen: int
    dropped: int


class DeadLetterQueue:
    """Takes dead letters in hand, one after the other.

    Every method raises BrokerAway when RabbitMQ cannot be reached.
    """

    def __init__(self, connection: AmqpConnection) -> None:
        self._connection = connection
        self._channel: Channel | None = None
        self._on_empty: Callable[[None], None] = lambda _: None

    async def open(self) -> None:
        """Connect, and make the queues that are missing."""
        await self._connection.open()
        self._channel = await self._connection.channel()
        self._channel.add_callback(
            lambda _: self._on_empty(None), [pika.spec.Basic.GetEmpty], one_shot=False
        )
        await self._connection.declare(self._channel)

    async def count(self) -> int:
        """Return how many dead letters nobody has in hand; those that were dropped are gone."""
        declared = await self._connection.call(
            lambda done: self._opened().queue_declare(
                DEAD_LETTER_QUEUE, passive=True, callback=done
            )
        )
        count: int = declared.method.message_count
        return count

    async def take(self) -> Taken | None:
        """Take the next dead letter in hand; None if there is none."""

        def ask(done: Callable[[Taken | None], None]) -> None:
            self._on_empty = done
            self._opened().basic_get(
                DEAD_LETTER_QUEUE,
                lambda _, method, properties, body: done(
                    Taken(method.delivery_tag, DeadLetter(properties, body))
                ),
            )

        taken: Taken | None = await self._connection.call(ask)
        return taken

    def drop(self, taken: Taken) -> None:
        """Remove a dead letter that is in hand."""
        try:
            self._opened().basic_ack(taken.tag)
        except AMQPError as error:
            raise BrokerAway(repr(error)) from error

    async def close(self) -> None:
        """Give back what is in hand."""
        await self._connection.close()

    def _opened(self) -> Channel:
        assert self._channel is not None
        return self._channel


class Operator:
    """What can be done with dead letters; each method returns the exit code.

    Each raises BrokerAway when RabbitMQ cannot be reached; what was said was done.
    """

    def __init__(self, queue: DeadLetterQueue, publisher: Publisher, say: Say) -> None:
        self._queue = queue
        self._publisher = publisher
        self._say = say

    async def show_all(self) -> int:
        """Print a line for each dead letter."""
        found = await self._handle(EVERY, self._print_line)
        if not found.chosen:
            self._say("There are no dead letters.")
        return EXIT_DONE

    async def show(self, name: str) -> int:
        """Print all of one dead letter."""
        found = await self._handle(name, self._print)
        return EXIT_DONE if found.chosen else self._say_none(name)

    async def replay(self, name: str) -> int:
        """Put dead letters back into the queues that they came from."""
        return self._sum_up(name, "replayed", await self._handle(name, self._replay))

    async def discard(self, name: str) -> int:
        """Remove dead letters for good; what is printed is all that is left of them."""
        return self._sum_up(name, "discarded", await self._handle(name, self._discard))

    async def _handle(self, name: str, act: Callable[[Taken], Awaitable[bool]]) -> Handled:
        """Go through the dead letters that are there now, and drop those that `act` has done with.

        What comes while this goes on, such as a replayed message that failed again, is left.
        """
        chosen = dropped = kept = 0
        total = await self._queue.count()
        for number in range(total):
            if kept == IN_HAND_LIMIT:
                self._say(f"{total - number} more are behind these; deal with some of these first.")
                break
            taken = await self._queue.take()
            if taken is None:
                break
            if name in (EVERY, taken.letter.name):
                chosen += 1
                is_done = await act(taken)
                if is_done:
                    self._queue.drop(taken)
                    dropped += 1
                if name != EVERY:
                    break
            kept = number + 1 - dropped
        await self._queue.count()  # answered after what was dropped is gone
        return Handled(chosen, dropped)

    async def _print_line(self, taken: Taken) -> bool:
        self._say(line(taken.letter))
        return False

    async def _print(self, taken: Taken) -> bool:
        self._say(full_text(taken.letter))
        return False

    async def _discard(self, taken: Taken) -> bool:
        await self._print(taken)
        return True

    async def _replay(self, taken: Taken) -> bool:
        letter = taken.letter
        if letter.queue is None:
            self._say(
                f"{letter.name}: not replayed: it names no queue that it came from"
                f" ({QUEUE_HEADER}); make dlq SHOW={letter.name} shows it"
            )
            return False
        copy = Publication(
            letter.queue, letter.body, copied(letter.properties, {}), mandatory=True, exchange=""
        )
        if copy.properties.message_id not in await self._publisher.publish([copy]):
            self._say(f"{letter.name}: not replayed: the queue {letter.queue} is missing")
            return False
        self._say(f"{letter.name}: put back into {letter.queue}")
        return True

    def _sum_up(self, name: str, done: str, handled: Handled) -> int:
        if name != EVERY and not handled.chosen:
            return self._say_none(name)
        refused = handled.chosen - handled.dropped
        self._say(f"{done}: {handled.dropped}" + (f", refused: {refused}" if refused else ""))
        return EXIT_REFUSED if refused else EXIT_DONE

    def _say_none(self, name: str) -> int:
        self._say(f"There is no dead letter {name}; make dlq lists them.")
        return EXIT_REFUSED


async def _main(settings: RabbitMQSettings, arguments: argparse.Namespace) -> int:
    login = (
        settings.rabbitmq_url,
        settings.rabbitmq_username,
        settings.rabbitmq_password.get_secret_value(),
    )
    queue = DeadLetterQueue(AmqpConnection(*login, name="payment-dlq"))
    publisher = Broker(*login, name="payment-dlq-replay")
    operator = Operator(queue, publisher, _say)
    await queue.open()
    try:
        if arguments.show:
            return await operator.show(arguments.show)
        if arguments.replay:
            return await operator.replay(arguments.replay)
        if arguments.discard:
            return await operator.discard(arguments.discard)
        return await operator.show_all()
    finally:
        await publisher.close()
        await queue.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the options say; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m payment.dlq", description=__doc__)
    options = parser.add_mutually_exclusive_group()
    options.add_argument("--show", metavar="ID", help="print all of one dead letter")
    options.add_argument("--replay", metavar="ID", help="put it, or all, back to be handled again")
    options.add_argument("--discard", metavar="ID", help="remove it, or all, for good")
    parsed = parser.parse_args(arguments)
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # what it logs it also raises
    try:
        return asyncio.run(_main(load_settings(RabbitMQSettings), parsed))
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except (SettingsError, BrokerAway) as error:
        sys.stderr.write(f"The dead letters could not be dealt with: {error}\n")
        return EXIT_AWAY


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
