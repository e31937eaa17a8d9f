"""Lists, shows, replays and discards the payment worker's dead letters."""

from collections.abc import Sequence

from supervisor.commands import Commands
from supervisor.settings import Settings


def dead_letters(settings: Settings, arguments: Sequence[str]) -> int:
    """Run the command of the payment function; return its exit status.

    Raises:
        ServerError: nothing was started here yet.

    """
    commands = Commands(settings)
    return commands.run("payment.dlq", arguments, commands.rabbitmq())
