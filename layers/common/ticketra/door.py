"""A door: says which ticket a code is, or that it is none, without asking anybody.

`python -m ticketra.door --keys jwks.json CODE` checks one code and ends with 0 if it lets in.
Without a code it checks each line of its input, as a hand-held scanner types them, and lets each
ticket in once. `--event ID` lets in to that event alone. `--void FILE` is the list of tickets that
became void (`ticketra.void_list`): a code cannot tell.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jwt

from ticketra import void_list
from ticketra.ticket_codes import CODE_TYPE, InvalidCode, TicketClaims, TicketVerifier

EXIT_INTERRUPTED = 130


class Answer(NamedTuple):
    """Whether to let somebody in, and why or why not."""

    lets_in: bool
    text: str


class Door:
    """Checks codes against a public key set (JSON); lets each ticket in once.

    With an `event_id`, tickets for other events are not let in; those in `void` (ids) never are.

    Raises:
        ValueError: it is no key set.

    """

    def __init__(self, jwks: str, void: Iterable[str] = (), *, event_id: str | None = None) -> None:
        try:
            self._kids = {key["kid"] for key in json.loads(jwks)["keys"]}
            self._verifier = TicketVerifier(jwks)
        except (ValueError, KeyError, TypeError, jwt.PyJWTError):
            raise ValueError("these are no public keys of tickets (JWKS)") from None
        self._void = frozenset(void)
        self._event_id = event_id
        self._let_in: set[str] = set()

    def check(self, code: str) -> Answer:
        """Return whether `code` lets in, now that all codes before it have been checked."""
        try:
            ticket = self._verifier.verify(code)
        except InvalidCode:
            return Answer(lets_in=False, text=f"INVALID  {self._why_invalid(code)}")
        if self._event_id not in {None, ticket.event_id}:
            return Answer(lets_in=False, text=f"OTHER    {_shown(ticket)}")
        if ticket.ticket_id in self._void:
            why = "its booking was cancelled after this code was made"
            return Answer(lets_in=False, text=f"VOID     {_shown(ticket)} is void: {why}")
        if ticket.ticket_id in self._let_in:
            return Answer(lets_in=False, text=f"USED     {_shown(ticket)} was let in before")
        self._let_in.add(ticket.ticket_id)
        return Answer(lets_in=True, text=f"VALID    {_shown(ticket)}")

    def _why_invalid(self, code: str) -> str:
        try:
            header = jwt.get_unverified_header(code)
        except jwt.PyJWTError:
            header = {}
        if header.get("typ") != CODE_TYPE:
            return "this is no ticket's code"
        if header.get("kid") not in self._kids:
            return "signed with a key that is not among these: get them anew, and check again"
        return "the signature is wrong: somebody made or changed this code"


def _shown(ticket: TicketClaims) -> str:
    return (
        f"ticket {ticket.number} of booking {ticket.booking_id} for event {ticket.event_id} "
        f"({ticket.ticket_id})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 all were let in, 1 one was not, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="ticketra.door", description=__doc__)
    parser.add_argument("--keys", required=True, type=Path, help="the public keys, as a JWKS file")
    parser.add_argument("--void", type=Path, help="the list of void tickets")
    parser.add_argument("--event", metavar="ID", help="the one event that is let in to")
    parser.add_argument("codes", nargs="*", metavar="CODE")
    parsed = parser.parse_args(arguments)
    try:
        void = _void(parsed.void, parsed.event) if parsed.void else ()
        door = Door(parsed.keys.read_text(), void, event_id=parsed.event)
    except FileNotFoundError as error:
        parser.error(f"there is no file {error.filename}")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    codes = parsed.codes or filter(None, map(str.strip, sys.stdin))
    try:
        return 0 if all([_said(door.check(code)) for code in codes]) else 1  # noqa: C419 - check all
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _void(path: Path, event_id: str | None) -> frozenset[str]:
    try:
        with path.open(encoding="utf-8") as lines:
            return void_list.read(lines, event_id)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; make void-tickets writes it anew") from None


def _said(answer: Answer) -> bool:
    sys.stdout.write(f"{answer.text}\n")
    sys.stdout.flush()
    return answer.lets_in


if __name__ == "__main__":
    sys.exit(main())
