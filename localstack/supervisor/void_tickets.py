"""Lists the void tickets of an event in the instance's PostgreSQL."""

from supervisor.commands import Commands
from supervisor.settings import Settings


def list_void_tickets(settings: Settings, event_id: str) -> int:
    """Run the command of the booking function; return its exit status.

    Raises:
        ServerError: nothing was started here yet.

    """
    commands = Commands(settings)
    return commands.run("booking.void_tickets", ["--", event_id], commands.postgres("booking"))
