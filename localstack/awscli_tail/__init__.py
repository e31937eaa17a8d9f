"""Adds `logs tail` to version 1 of the AWS command line, which is the one that PyPI has.

The name and the options are those of version 2. The file `config` beside this one, which
`.local/env.sh` names as AWS_CONFIG_FILE, makes the command line load it.
"""

import re
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any, ClassVar

from awscli.customizations.commands import BasicCommand
from awscli.utils import create_nested_client

from supervisor.logs import POLL_INTERVAL_S, GroupFollower

DEFAULT_SINCE = "10m"
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d+)([smhdw])")


class TailCommand(BasicCommand):  # type: ignore[misc]
    """`aws logs tail GROUP [--since 10m] [--follow]`."""

    NAME = "tail"
    DESCRIPTION = "Tails the logs of a CloudWatch Logs group."
    ARG_TABLE: ClassVar[list[dict[str, Any]]] = [
        {"name": "group_name", "positional_arg": True, "help_text": "The name of the group."},
        {
            "name": "since",
            "default": DEFAULT_SINCE,
            "help_text": f"How far back to begin, such as 30s, 10m, 2h; default {DEFAULT_SINCE}.",
        },
        {"name": "follow", "action": "store_true", "help_text": "Go on until Ctrl-C."},
    ]

    def _run_main(self, parsed_args: Namespace, parsed_globals: Namespace) -> int:
        seconds = duration_s(parsed_args.since)
        if seconds is None:
            print(f"--since: {parsed_args.since} is not of the form 10m", file=sys.stderr)
            return 255
        client = create_nested_client(
            self._session,
            "logs",
            region_name=parsed_globals.region,
            endpoint_url=parsed_globals.endpoint_url,
            verify=parsed_globals.verify_ssl,
        )
        since_ms = int((time.time() - seconds) * 1000)
        follower = GroupFollower(client, parsed_args.group_name, since_ms)
        for line in _lines(follower, follow=parsed_args.follow):
            print(line, flush=True)
        return 0


def duration_s(text: str) -> int | None:
    """Return the seconds that `text` (such as 10m) stands for, None if it is no duration."""
    match = _DURATION.fullmatch(text)
    return int(match[1]) * _UNITS_S[match[2]] if match else None


def awscli_initialize(events: Any) -> None:
    """Register the command; called by the AWS command line."""
    events.register("building-command-table.logs", _add_tail)


def _add_tail(command_table: dict[str, Any], session: Any, **_: Any) -> None:
    command_table["tail"] = TailCommand(session)


def _lines(follower: GroupFollower, *, follow: bool) -> Iterator[str]:
    yield from follower.added()
    while follow:
        time.sleep(POLL_INTERVAL_S)
        yield from follower.added()
