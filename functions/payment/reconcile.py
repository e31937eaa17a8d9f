"""Compares payments with bookings: `python -m payment.reconcile [--repair] [--grace-s SECONDS]`.

Exits 0 if bookings, payments and charges agree, 1 if they do not, and 2 if that could not be found
out. With --repair the worker gets the message about a booking once more, where that puts it right;
it takes its time, so the exit code is that of before.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import psycopg

from payment.reconcile_store import Entry, ReconcileStore
from payment.republish import message
from payment.settings import PostgresSettings, RabbitMQSettings
from payment.verdicts import GRACE_S, Problem, Standing, judge
from ticketra.amqp import BrokerAway
from ticketra.broker import Broker, Publisher
from ticketra.database import Database
from ticketra.ids import IdSource
from ticketra.settings import SettingsError, load_settings

EXIT_AGREES, EXIT_DIFFERS, EXIT_UNKNOWN = 0, 1, 2

Say = Callable[[str], None]


class Result(NamedTuple):
    """How many bookings were compared, how many are not right, and of how many the worker hears."""

    booking_count: int
    wrong: int
    sent_again: int


async def reconcile(
    store: ReconcileStore,
    say: Say,
    publisher: Publisher | None,
    mint_id: IdSource,
    grace_s: float = GRACE_S,
) -> Result:
    """Name every booking that is wrong or stuck; with a `publisher`, send what puts it right.

    Raises:
        psycopg.OperationalError: PostgreSQL is away or too slow; what was said was done.
        BrokerAway: the same of RabbitMQ.

    """
    booking_count = wrong = sent_again = 0
    async with store.snapshot() as pages:
        async for page in pages:
            booking_count += len(page)
            found = [
                (entry, problem)
                for entry in page
                if (problem := judge(entry.standing, entry.age_s, grace_s)) is not None
            ]
            wrong += len(found)
            for entry, problem in found:
                say(describe(entry, problem))
            if publisher is not None:
                sent_again += await _send_again(found, publisher, mint_id, say)
    return Result(booking_count, wrong, sent_again)


def describe(entry: Entry, problem: Problem) -> str:
    """Return how a booking stands, what is wrong with that and what to do, in a line."""
    return f"{entry.booking_id}: {_stands(entry.standing)}: {problem.sentence}"


def _stands(standing: Standing) -> str:
    status, payment_status, state, charge = standing
    booking = "no booking" if status is None else f"booking {status} ({payment_status})"
    payment = "no payment" if state is None else f"payment {state}"
    return f"{booking}, {payment}, {'no charge' if charge is None else f'charge {charge}'}"


async def _send_again(
    found: Sequence[tuple[Entry, Problem]], publisher: Publisher, mint_id: IdSource, say: Say
) -> int:
    """Send the messages that put bookings right, and return how many RabbitMQ has taken over."""
    sent = {
        entry.booking_id: message(entry, problem.remedy, mint_id)
        for entry, problem in found
        if problem.remedy is not None
    }
    if not sent:
        return 0
    safe = await publisher.publish(list(sent.values()))
    for booking_id, publication in sent.items():
        is_safe = publication.properties.message_id in safe
        done = "sent again" if is_safe else "not sent, because its queue is missing"
        say(f"{booking_id}: {publication.properties.type} {done}")
    return len(safe)


async def _main(grace_s: float, *, repair: bool) -> int:
    postgres = load_settings(PostgresSettings)
    database = Database(
        postgres.postgres_url,
        postgres.postgres_username,
        postgres.postgres_password.get_secret_value(),
        name="payment",
        schema="payment",
    )
    broker = _broker() if repair else None
    try:
        result = await reconcile(ReconcileStore(database), _say, broker, IdSource(), grace_s)
    finally:
        if broker is not None:
            await broker.close()
    _say(
        f"payments compared: {result.booking_count}, wrong or stuck: {result.wrong},"
        f" sent again: {result.sent_again}"
    )
    return EXIT_DIFFERS if result.wrong else EXIT_AGREES


def _broker() -> Broker:
    settings = load_settings(RabbitMQSettings)
    return Broker(
        settings.rabbitmq_url,
        settings.rabbitmq_username,
        settings.rabbitmq_password.get_secret_value(),
        name="payment-reconcile",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, and send messages again if told to; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m payment.reconcile", description=__doc__)
    parser.add_argument("--repair", action="store_true", help="send what puts bookings right")
    parser.add_argument(
        "--grace-s",
        type=float,
        default=GRACE_S,
        help="for how long a message may be on its way (default %(default)s s)",
    )
    parsed = parser.parse_args(arguments)
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # what it logs it also raises
    try:
        return asyncio.run(_main(parsed.grace_s, repair=parsed.repair))
    except (SettingsError, psycopg.Error, BrokerAway) as error:
        sys.stderr.write(f"The payments could not be compared: {error}\n")
        return EXIT_UNKNOWN


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
