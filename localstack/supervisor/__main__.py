"""The command line of the local cloud; `make` calls it."""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from types import FrameType

from botocore.exceptions import BotoCoreError, ClientError

from supervisor import cloud, logs
from supervisor.admin import AdminError, set_admin
from supervisor.bank import tell_bank
from supervisor.deploy import DeployError, deploy, destroy
from supervisor.dlq import dead_letters
from supervisor.logs import LogsError
from supervisor.ports import PortTakenError
from supervisor.progress import Progress
from supervisor.reconcile import reconcile
from supervisor.rotate import (
    drop_all_but_newest,
    drop_all_ticket_keys_but_newest,
    drop_keys,
    rotate_keys,
    rotate_ticket_keys,
)
from supervisor.secrets import SecretsError
from supervisor.server import ServerError, ServerStatus
from supervisor.settings import REPOSITORY, Settings, SettingsError
from supervisor.token_keys import RotationError
from supervisor.void_tickets import list_void_tickets

EXIT_INTERRUPTED = 130
_BANK_AMOUNTS = ("slow", "time_out", "fail", "twice", "late")
_ENVIRONMENT_DIRECTORIES = (".local", "node_modules", "cdk.out", ".venv")


def _up(settings: Settings, _arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    progress = Progress(sys.stdout)
    cloud.up(settings, progress)
    took_s = time.monotonic() - started
    progress.say(f"The local cloud is up ({took_s:.1f} s); make deploy puts the app on it")
    return 0


def _down(settings: Settings, _arguments: argparse.Namespace) -> int:
    progress = Progress(sys.stdout)
    cloud.down(settings, progress)
    progress.say("The local cloud is down")
    return 0


def _deploy(settings: Settings, _arguments: argparse.Namespace) -> int:
    deploy(settings, Progress(sys.stdout))
    return 0


def _destroy(settings: Settings, _arguments: argparse.Namespace) -> int:
    destroy(settings, Progress(sys.stdout))
    return 0


def _reconcile(settings: Settings, arguments: argparse.Namespace) -> int:
    return reconcile(settings, repair=arguments.repair)


def _dlq(settings: Settings, arguments: argparse.Namespace) -> int:
    return dead_letters(settings, _given(arguments, "show", "replay", "discard"))


def _bank(settings: Settings, arguments: argparse.Namespace) -> int:
    told = _given(arguments, *_BANK_AMOUNTS)
    return tell_bank(settings, [*told, "--reset"] if arguments.reset else told)


def _given(arguments: argparse.Namespace, *names: str) -> list[str]:
    """Return the options of these names that have a value, as they are passed on."""
    values = {name: getattr(arguments, name) for name in names}
    return [
        f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value is not None
    ]


def _admin(settings: Settings, arguments: argparse.Namespace) -> int:
    address = set_admin(settings, arguments.email, revoke=arguments.revoke)
    print(f"{address} is {'no admin any more' if arguments.revoke else 'an admin'}, from the next")
    print("login or refresh on; an access token that is out keeps its role until it expires.")
    return 0


def _rotate_keys(settings: Settings, arguments: argparse.Namespace) -> int:
    progress = Progress(sys.stdout)
    if arguments.kind == "tickets":
        _rotate_ticket_keys(settings, arguments.drop, progress)
    elif arguments.drop == "now":
        drop_all_but_newest(settings, progress)
    elif arguments.drop == "retired":
        drop_keys(settings, progress, datetime.now(UTC))
    else:
        rotate_keys(settings, progress, datetime.now(UTC))
    return 0


def _rotate_ticket_keys(settings: Settings, drop: str | None, progress: Progress) -> None:
    if drop == "retired":
        raise RotationError(
            "Tickets do not expire, so that no key of theirs is surely out of use by itself. "
            "DROP=now drops all but the newest; codes of the others are not valid any more then."
        )
    if drop == "now":
        drop_all_ticket_keys_but_newest(settings, progress)
    else:
        rotate_ticket_keys(settings, progress)


def _void_tickets(settings: Settings, arguments: argparse.Namespace) -> int:
    return list_void_tickets(settings, arguments.event)


def _clean(settings: Settings, arguments: argparse.Namespace) -> int:
    progress = Progress(sys.stdout)
    cloud.clean(settings, progress)
    if arguments.all:
        for name in _ENVIRONMENT_DIRECTORIES:
            shutil.rmtree(REPOSITORY / name, ignore_errors=True)
    progress.say("Removed the data" + (" and the environments" if arguments.all else ""))
    return 0


def _status(settings: Settings, arguments: argparse.Namespace) -> int:
    statuses = cloud.status(settings)
    if arguments.json:
        print(json.dumps([asdict(item) for item in statuses], indent=2))
    else:
        print(status_table(statuses, time.time()))
    return 0 if all(item.is_up for item in statuses) else 1


def _logs(settings: Settings, arguments: argparse.Namespace) -> int:
    for line in logs.show(settings, arguments.names, follow=arguments.follow):
        print(line, flush=True)
    return 0


def status_table(statuses: Sequence[ServerStatus], now: float) -> str:
    """Return the statuses as a table; `now` is in seconds since the epoch."""
    rows: list[tuple[str, ...]] = [("SERVER", "STATE", "PID", "UP FOR", "MEMORY", "ADDRESS")]
    rows += [_status_row(item, now) for item in statuses]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def _status_row(item: ServerStatus, now: float) -> tuple[str, ...]:
    return (
        item.name,
        item.state,
        "-" if item.pid is None else str(item.pid),
        "-" if item.since is None else _duration(now - item.since),
        "-" if item.memory_bytes is None else f"{item.memory_bytes / 1e6:.0f} MB",
        item.address,
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="supervisor", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser("up", help="start what does not run")
    command.set_defaults(run=_up)
    command = commands.add_parser("down", help="stop everything")
    command.set_defaults(run=_down)
    command = commands.add_parser("deploy", help="deploy the CDK app")
    command.set_defaults(run=_deploy)
    command = commands.add_parser("destroy", help="remove the deployed CDK app")
    command.set_defaults(run=_destroy)
    command = commands.add_parser("reconcile", help="compare stock, bookings and payments")
    command.add_argument(
        "--repair", action="store_true", help="correct the stock, resume stuck payments"
    )
    command.set_defaults(run=_reconcile)
    command = commands.add_parser("dlq", help="list the dead letters of the payment worker")
    options = command.add_mutually_exclusive_group()
    options.add_argument("--show", metavar="ID", help="print one instead")
    options.add_argument("--replay", metavar="ID", help="put one, or all, back instead")
    options.add_argument("--discard", metavar="ID", help="remove one, or all, instead")
    command.set_defaults(run=_dlq)
    command = commands.add_parser("bank", help="show or change how the mock bank behaves")
    for name in _BANK_AMOUNTS:
        command.add_argument(f"--{name.replace('_', '-')}", metavar="N")
    command.add_argument("--reset", action="store_true", help="end what it was told before")
    command.set_defaults(run=_bank)
    command = commands.add_parser("admin", help="make a registered user an admin")
    command.add_argument("email", help="the user's e-mail address")
    command.add_argument("--revoke", action="store_true", help="take the role instead")
    command.set_defaults(run=_admin)
    command = commands.add_parser("rotate-keys", help="let a new key sign tokens, or tickets")
    command.add_argument("--kind", choices=("tokens", "tickets"), default="tokens")
    command.add_argument(
        "--drop",
        choices=("retired", "now"),
        help="instead: drop the keys whose tokens are gone, or all but the newest at once",
    )
    command.set_defaults(run=_rotate_keys)
    command = commands.add_parser("void-tickets", help="list the void tickets of an event")
    command.add_argument("event", help="the event's id")
    command.set_defaults(run=_void_tickets)
    command = commands.add_parser("clean", help="stop everything and remove the data")
    command.add_argument("--all", action="store_true", help="remove the environments too")
    command.set_defaults(run=_clean)
    command = commands.add_parser("status", help="say how each server is")
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=_status)
    command = commands.add_parser("logs", help="show logs of servers and functions")
    command.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"one of {', '.join((*cloud.SERVER_NAMES, *logs.FUNCTION_NAMES))}",
    )
    command.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    command.set_defaults(run=_logs)
    return parser


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 well, 1 not, 2 wrong usage, 130 stopped by the user."""
    signal.signal(signal.SIGTERM, _interrupt)
    parser = _parser()
    parsed = parser.parse_args(arguments)
    known = {*cloud.SERVER_NAMES, *logs.FUNCTION_NAMES}
    unknown = sorted(set(getattr(parsed, "names", ())) - known)
    if unknown:
        parser.error(f"no log of {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    try:
        status: int = parsed.run(Settings.load(), parsed)
    except (
        SettingsError,
        SecretsError,
        PortTakenError,
        ServerError,
        LogsError,
        DeployError,
        AdminError,
        RotationError,
    ) as error:
        print(error, file=sys.stderr)
        return 1
    except (BotoCoreError, ClientError) as error:
        print(f"LocalStack does not answer: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("Stopped; the next run goes on from here.", file=sys.stderr)
        return EXIT_INTERRUPTED
    return status


if __name__ == "__main__":
    sys.exit(main())
