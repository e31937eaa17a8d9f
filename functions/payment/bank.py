"""Tells the built-in payment provider how to behave, for trials: `python -m payment.bank`.

Without an option it shows what the bank was told. Exits 0 if that was done, and 2 if an option
makes no sense or PostgreSQL cannot be reached.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import psycopg

from payment.mock_bank import BEHAVIOUR_TTL_S, Behaviour
from payment.settings import PostgresSettings
from ticketra.database import Connection, Database
from ticketra.settings import SettingsError, load_settings

EXIT_DONE, EXIT_FAILED = 0, 2

Say = Callable[[str], None]

_FORGET_ALL = "DELETE FROM mock_bank_behaviour"
_FORGET = "DELETE FROM mock_bank_behaviour WHERE behaviour = ANY(%s)"
_TELL = """
    INSERT INTO mock_bank_behaviour (behaviour, amount)
    SELECT * FROM unnest(%s::text[], %s::integer[])
    ON CONFLICT (behaviour) DO UPDATE SET amount = excluded.amount
"""
_TOLD = "SELECT behaviour, amount FROM mock_bank_behaviour"


class _Range(NamedTuple):
    """From 0, which ends the behaviour, to `most`; `says` tells what it does, with the amount."""

    most: int
    unit: str
    says: str


# Longer than the worker waits for an answer, and longer than tickets are ever held.
_SLOW_LIMIT_MS = 60_000
_LATE_LIMIT_MS = 2 * 3_600_000

RANGES: Mapping[Behaviour, _Range] = {
    Behaviour.SLOW: _Range(_SLOW_LIMIT_MS, "ms", "answers after {} ms"),
    Behaviour.TIME_OUT: _Range(100, "of 100 charges", "makes {} of 100 charges without answering"),
    Behaviour.FAIL: _Range(
        100, "of 100 charges", "fails for {} of 100 charges, and makes every second of them"
    ),
    Behaviour.TWICE: _Range(100, "of 100 charges", "is asked twice for {} of 100 charges"),
    Behaviour.LATE: _Range(_LATE_LIMIT_MS, "ms", "decides {} ms after it was asked"),
}


class WrongAmounts(Exception):  # noqa: N818 - says what was wrong
    """Amounts that make no sense; the text has a sentence for each."""


def read_amounts(texts: Mapping[Behaviour, str]) -> dict[Behaviour, int]:
    """Return the amount of each behaviour that was written down.

    Raises:
        WrongAmounts: one is no whole number, or out of its range.

    """
    problems = [
        f"{behaviour.upper()}={text}: a whole number from 0 to {RANGES[behaviour].most}"
        f" ({RANGES[behaviour].unit}) is needed; 0 ends it."
        for behaviour, text in texts.items()
        if not _is_within(text, RANGES[behaviour].most)
    ]
    if problems:
        raise WrongAmounts("\n".join(problems))
    return {behaviour: int(text) for behaviour, text in texts.items()}


def _is_within(text: str, most: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and int(text) <= most


def describe(told: Mapping[Behaviour, int]) -> str:
    """Return what the bank does, a line for each behaviour."""
    if not told:
        return "The mock bank answers at once."
    return "\n".join(
        f"{behaviour.upper()}={told[behaviour]}: {RANGES[behaviour].says.format(told[behaviour])}"
        for behaviour in Behaviour
        if behaviour in told
    )


async def tell(
    connection: Connection, amounts: Mapping[Behaviour, int], *, reset: bool
) -> dict[Behaviour, int]:
    """Change what the bank does, all at once; return what it was told by then.

    What `amounts` does not name stays as it was, unless `reset` ends it; 0 ends one.
    """
    wanted = {behaviour: amount for behaviour, amount in amounts.items() if amount}
    async with connection.transaction():
        if reset:
            await connection.execute(_FORGET_ALL)
        await connection.execute(_FORGET, [[one for one in amounts if one not in wanted]])
        await connection.execute(_TELL, [list(wanted), list(wanted.values())])
        cursor = await connection.execute(_TOLD)
        return {Behaviour(row[0]): row[1] for row in await cursor.fetchall()}


async def _main(
    settings: PostgresSettings, amounts: Mapping[Behaviour, int], *, reset: bool
) -> int:
    database = Database(
        settings.postgres_url,
        settings.postgres_username,
        settings.postgres_password.get_secret_value(),
        name="payment",
        schema="payment",
    )
    async with await database.connect("bank") as connection:
        told = await tell(connection, amounts, reset=reset)
    sys.stdout.write(f"{describe(told)}\n")
    if amounts or reset:
        sys.stdout.write(f"It does so within {BEHAVIOUR_TTL_S} s.\n")
    return EXIT_DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Tell the bank what the options say, and show what it was told; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m payment.bank", description=__doc__)
    for behaviour, allowed in RANGES.items():
        parser.add_argument(
            f"--{behaviour.replace('_', '-')}", metavar="N", help=allowed.says.format("N")
        )
    parser.add_argument("--reset", action="store_true", help="end what it was told before")
    parsed = vars(parser.parse_args(arguments))
    texts = {one: parsed[one.value] for one in Behaviour if parsed[one.value] is not None}
    try:
        amounts = read_amounts(texts)
        return asyncio.run(_main(load_settings(PostgresSettings), amounts, reset=parsed["reset"]))
    except WrongAmounts as error:
        sys.stderr.write(f"{error}\n")
    except (SettingsError, psycopg.Error) as error:
        sys.stderr.write(f"The mock bank was told nothing: {error}\n")
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
