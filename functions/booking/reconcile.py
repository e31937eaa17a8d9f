"""The ledger check: `python -m booking.reconcile [--repair]`.

Exits 0 if capacity, stock, bookings and tickets agree (after the repair of the stock, if one was
asked for), 1 if they do not, and 2 if that could not be found out.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import psycopg

from booking.ledger_store import LOCK_LIMIT_S, Corrections, Entry, Issued, LedgerStore
from booking.models import CONFIRMED
from booking.settings import PostgresSettings
from ticketra.database import Database
from ticketra.settings import SettingsError, load_settings

EXIT_AGREES, EXIT_DRIFTED, EXIT_UNKNOWN = 0, 1, 2

Say = Callable[[str], None]


class Result(NamedTuple):
    """What was found: how many sales there are, how many drifted, and how many still do.

    `wrong_tickets` is the number of bookings with more or fewer valid tickets than seats sold.
    """

    sale_count: int
    drifted: int
    left: int
    wrong_tickets: int


async def reconcile(store: LedgerStore, say: Say, *, repair: bool) -> Result:
    """Name every sale whose stock does not fit its bookings; correct it only with `repair`.

    Bookings whose tickets do not fit them are named, and left to people.

    Raises:
        psycopg.OperationalError: PostgreSQL is away or too slow; what was said was done.

    """
    drifted = left = 0
    async with store.snapshot() as snapshot, store.corrections() as corrections:
        async for entry in snapshot.drifted:
            drifted += 1
            say(describe(entry))
            if not (repair and await _correct(corrections, entry.event_id, say)):
                left += 1
        wrong_tickets = 0
        async for issued in snapshot.wrong_tickets:
            wrong_tickets += 1
            say(describe_tickets(issued))
    return Result(snapshot.sale_count, drifted, left, wrong_tickets)


def describe(entry: Entry) -> str:
    """Return what is wrong with a sale, in a line."""
    return (
        f"{entry.event_id}: {entry.expected} should remain, {entry.remaining} remain"
        f" (capacity {entry.capacity}, held or sold {entry.held})"
    )


def describe_tickets(issued: Issued) -> str:
    """Return what is wrong with the tickets of a booking, in a line."""
    expected = issued.ticket_count if issued.status == CONFIRMED else 0
    return (
        f"booking {issued.booking_id}: {expected} tickets should be valid, {issued.valid} are"
        f" ({issued.status}, seats {issued.ticket_count})"
    )


async def _correct(corrections: Corrections, event_id: str, say: Say) -> bool:
    """Say whether the sale agrees with its bookings now."""
    try:
        found = await corrections.correct(event_id)
    except psycopg.errors.LockNotAvailable:
        say(f"{event_id}: not corrected, others kept it locked for {LOCK_LIMIT_S} s: run it again")
        return False
    if not found.drifted:
        say(f"{event_id}: nothing to correct any more")
    elif found.remaining != max(0, found.expected):
        say(f"{event_id}: corrected from {found.remaining} to {max(0, found.expected)}")
    if found.expected < 0:
        say(f"{event_id}: oversold by {-found.expected}: raise its capacity or cancel bookings")
    return found.expected >= 0


async def _main(settings: PostgresSettings, *, repair: bool) -> int:
    database = Database(
        settings.postgres_url,
        settings.postgres_username,
        settings.postgres_password.get_secret_value(),
        name="booking",
    )
    result = await reconcile(LedgerStore(database), _say, repair=repair)
    _say(
        f"checked: {result.sale_count}, drifted: {result.drifted}, left: {result.left},"
        f" bookings with wrong tickets: {result.wrong_tickets}"
    )
    return EXIT_DRIFTED if result.left or result.wrong_tickets else EXIT_AGREES


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, and correct if told to; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m booking.reconcile", description=__doc__)
    parser.add_argument("--repair", action="store_true", help="correct the stock that drifted")
    repair = parser.parse_args(arguments).repair
    try:
        return asyncio.run(_main(load_settings(PostgresSettings), repair=repair))
    except (SettingsError, psycopg.Error) as error:
        sys.stderr.write(f"The ledger could not be checked: {error}\n")
        return EXIT_UNKNOWN


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
