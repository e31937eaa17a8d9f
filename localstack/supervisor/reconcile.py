"""Runs the checks of booking's and payment's books against the instance's servers."""

from supervisor.commands import Commands
from supervisor.settings import Settings

UNKNOWN = 2  # the worst that a check can say


def reconcile(settings: Settings, *, repair: bool) -> int:
    """Compare stock with bookings and bookings with payments; return the worse exit status.

    Raises:
        ServerError: nothing was started here yet.

    """
    commands = Commands(settings)
    arguments = ["--repair"] if repair else []
    statuses = (
        commands.run("booking.reconcile", arguments, commands.postgres("booking")),
        commands.run(
            "payment.reconcile", arguments, {**commands.postgres("payment"), **commands.rabbitmq()}
        ),
    )
    # A check that was killed has found out nothing.
    return max(status if status >= 0 else UNKNOWN for status in statuses)
