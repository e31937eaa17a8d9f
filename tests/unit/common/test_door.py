"""A door knows real codes from others with nothing but a file of public keys."""

import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.unit.common.support import SigningKey
from ticketra import door
from ticketra.door import Door
from ticketra.ticket_codes import TicketClaims, TicketSigner
from ticketra.void_list import end_line

ROOT = Path(__file__).parents[3]
KEY, OTHER_KEY = SigningKey("tickets-1"), SigningKey("tickets-2")
TICKET = TicketClaims("01a202df-ticket", "01a202df-booking", "6b02c8aa", 2)
GONE = "01a202df-ddf1-7443-a8d7-4eee6a943d89"
LISTED_AT = datetime(2030, 7, 20, 18, 30, tzinfo=UTC)
SHOWN = "ticket 2 of booking 01a202df-booking for event 6b02c8aa (01a202df-ticket)"


def _code(ticket: TicketClaims = TICKET, key: SigningKey = KEY) -> str:
    return TicketSigner.from_secret(key.secret).code(ticket)


def _altered(code: str) -> str:
    """Return a code that says another number under the same signature."""
    header, _, signature = code.split(".")
    return ".".join([header, _code(TICKET._replace(number=3)).split(".")[1], signature])


def test_a_real_code_lets_in_once() -> None:
    entrance = Door(KEY.jwks)

    assert entrance.check(_code()) == (True, f"VALID    {SHOWN}")
    assert entrance.check(_code()) == (False, f"USED     {SHOWN} was let in before")
    assert entrance.check(_code(TICKET._replace(ticket_id="another"))).lets_in


def test_a_code_of_an_old_key_lets_in_while_the_key_is_listed() -> None:
    both = json.dumps({"keys": [OTHER_KEY.jwk, KEY.jwk]})

    assert Door(both).check(_code()).lets_in
    assert Door(both).check(_code(TICKET._replace(number=1, ticket_id="b"), OTHER_KEY)).lets_in


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (_code(key=OTHER_KEY), "signed with a key that is not among these"),
        (_code(key=SigningKey("tickets-1")), "the signature is wrong"),
        (_altered(_code()), "the signature is wrong"),
        (KEY.token(), "this is no ticket's code"),
        ("", "this is no ticket's code"),
        ("https://tickets.example/1", "this is no ticket's code"),
        (_code() + "AAAA", "the signature is wrong"),
    ],
)
def test_anything_else_does_not(code: str, why: str) -> None:
    answer = Door(KEY.jwks).check(code)

    assert not answer.lets_in
    assert answer.text.startswith(f"INVALID  {why}")


def test_a_ticket_on_the_list_of_void_ones_does_not_let_in() -> None:
    entrance = Door(KEY.jwks, [TICKET.ticket_id])

    assert entrance.check(_code()) == (
        False,
        f"VOID     {SHOWN} is void: its booking was cancelled after this code was made",
    )
    assert entrance.check(_code(key=OTHER_KEY)).text.startswith("INVALID"), (
        "a forged one is no more"
    )
    assert entrance.check(_code(TICKET._replace(ticket_id="another"))).lets_in


def test_a_door_of_one_event_does_not_let_in_to_another() -> None:
    assert Door(KEY.jwks, event_id="6b02c8ab").check(_code()) == (False, f"OTHER    {SHOWN}")
    assert Door(KEY.jwks, event_id=TICKET.event_id).check(_code()).lets_in


@pytest.mark.parametrize("keys", ["", "[]", "{}", '{"keys": [{}]}', '{"keys": [{"kid": "a"}]}'])
def test_what_is_no_key_set_is_said_at_once(keys: str) -> None:
    with pytest.raises(ValueError, match="no public keys of tickets"):
        Door(keys)


def test_the_command_needs_no_network_and_no_settings(tmp_path: Path) -> None:
    keys = tmp_path / "jwks.json"
    keys.write_text(KEY.jwks)

    done = subprocess.run(
        [sys.executable, "-m", "ticketra.door", "--keys", keys, _code()],
        cwd=ROOT / "layers" / "common",
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, f"VALID    {SHOWN}\n", "")


def test_the_command_reads_what_a_scanner_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, void = tmp_path / "jwks.json", tmp_path / "void.txt"
    keys.write_text(KEY.jwks)
    void.write_text(f"{GONE}\n{end_line(1, TICKET.event_id, LISTED_AT)}\n")
    second = _code(TICKET._replace(ticket_id=GONE))
    third = _code(TICKET._replace(event_id="another"))
    monkeypatch.setattr(
        sys, "stdin", io.StringIO(f"{_code()}\n{_code()}\r\n{second}\n\n{third}\nx")
    )

    options = ["--keys", str(keys), "--void", str(void), "--event", TICKET.event_id]
    assert door.main(options) == 1

    said = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["VALID", "USED", "VOID", "OTHER", "INVALID"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "breaks off"),
        (f"{GONE}\n".encode(), "breaks off"),
        (f"{end_line(0, 'another', LISTED_AT)}\n".encode(), "list of event another"),
        (b"\xff", "can't decode"),
    ],
)
def test_nobody_is_let_in_with_a_list_that_is_not_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, why: str
) -> None:
    keys, void = tmp_path / "jwks.json", tmp_path / "void.txt"
    keys.write_text(KEY.jwks)
    void.write_bytes(content)

    with pytest.raises(SystemExit) as ended:
        door.main(["--keys", str(keys), "--void", str(void), "--event", TICKET.event_id, _code()])

    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{void}: " in said.err
    assert why in said.err


def test_a_missing_file_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        door.main(["--keys", "/nowhere/jwks.json", "x"])

    assert ended.value.code == 2
    assert "/nowhere/jwks.json" in capsys.readouterr().err
