"""The void tickets of an event, for its doors: `python -m booking.void_tickets EVENT_ID`.

Writes their ids, one a line, and a last line that says that these were all. Exits 0 if it did, 1 if
there is no such event, and 2 if they could not be found out or written.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from typing import TextIO

import psycopg

from booking.settings import PostgresSettings
from booking.void_store import VoidStore
from ticketra import void_list
from ticketra.database import Database
from ticketra.errors import NotFound
from ticketra.settings import SettingsError, load_settings

EXIT_LISTED, EXIT_NOT_FOUND, EXIT_FAILED = 0, 1, 2


async def lines(store: VoidStore, event_id: str) -> AsyncIterator[str]:
    """Yield the list of an event's void tickets, line by line.

    Raises:
        NotFound: there is no such event.
        psycopg.OperationalError: PostgreSQL is away or too slow; what was yielded is no whole list.

    """
    count = 0
    async with store.of_event(event_id) as void:
        async for ticket_id in void.ids:
            yield ticket_id
            count += 1
    yield void_list.end_line(count, event_id, void.listed_at)


async def _write(settings: PostgresSettings, event_id: str, output: TextIO) -> None:
    database = Database(
        settings.postgres_url,
        settings.postgres_username,
        settings.postgres_password.get_secret_value(),
        name="booking",
    )
    async for line in lines(VoidStore(database), event_id):
        output.write(f"{line}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the list; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m booking.void_tickets", description=__doc__)
    parser.add_argument("event_id")
    event_id = parser.parse_args(arguments).event_id
    try:
        settings = load_settings(PostgresSettings)
        # A file of its own, closed here: what cannot be written is noticed before the exit code.
        with os.fdopen(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False) as output:
            asyncio.run(_write(settings, event_id, output))
    except NotFound as refusal:
        sys.stderr.write(f"{refusal.detail}\n")
        return EXIT_NOT_FOUND
    except (SettingsError, psycopg.Error, OSError) as error:
        sys.stderr.write(f"The list of void tickets is not whole: {error}\n")
        return EXIT_FAILED
    return EXIT_LISTED


if __name__ == "__main__":
    sys.exit(main())
