"""Tells the mock bank, which lives in the instance's PostgreSQL, how to behave."""

from collections.abc import Sequence

from supervisor.commands import Commands
from supervisor.settings import Settings


def tell_bank(settings: Settings, arguments: Sequence[str]) -> int:
    """Run the command of the payment function; return its exit status.

    Raises:
        ServerError: nothing was started here yet.

    """
    commands = Commands(settings)
    return commands.run("payment.bank", arguments, commands.postgres("payment"))
