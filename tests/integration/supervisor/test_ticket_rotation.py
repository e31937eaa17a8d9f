"""A rotation of the tickets' keys from the command to the door, over AWS in memory."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from moto import mock_aws

from supervisor import aws
from supervisor.__main__ import main
from supervisor.secrets import TICKET_KEYS_SECRET, TICKETS_JWKS_PARAMETER, load_or_make
from supervisor.settings import REGION, Settings
from tests.integration.functions import AWS, forget_secrets
from ticketra.secrets import parameter, present_secret
from ticketra.ticket_codes import InvalidCode, TicketClaims, TicketSigner, TicketVerifier

TICKET = TicketClaims("ticket", "booking", "event", 1)


def _signed_by_a_new_task() -> str:
    return TicketSigner.from_secret(present_secret(TICKET_KEYS_SECRET)).code(TICKET)


def _check_at_a_door(code: str) -> None:
    assert TicketVerifier(parameter(TICKETS_JWKS_PARAMETER)).verify(code) == TICKET


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    settings = Settings(home=tmp_path)
    for variable, value in (AWS | {"AWS_DEFAULT_REGION": REGION}).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("TICKETRA_HOME", str(tmp_path))
    monkeypatch.setattr(aws, "client_settings", lambda _: {"region_name": REGION})
    forget_secrets()
    with mock_aws():
        aws.provision(settings, load_or_make(settings))
        yield settings
    forget_secrets()


@pytest.fixture
def rotate(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run the command; return its exit status and what it said."""

    def run(*arguments: str) -> tuple[int, str]:
        status = main(["rotate-keys", *arguments])
        return status, "".join(capsys.readouterr())

    return run


def test_what_was_printed_before_a_rotation_stays_valid(
    settings: Settings, rotate: Callable[..., tuple[int, str]]
) -> None:
    printed = _signed_by_a_new_task()

    status, said = rotate("--kind", "tickets")

    assert (status, "No booking task is deployed" in said) == (0, True)
    assert load_or_make(settings).ticket_keys["active"] in said
    assert _signed_by_a_new_task() != printed
    _check_at_a_door(_signed_by_a_new_task())
    _check_at_a_door(printed)


def test_codes_of_a_dropped_key_are_not_valid_any_more(
    rotate: Callable[..., tuple[int, str]],
) -> None:
    printed = _signed_by_a_new_task()
    rotate("--kind", "tickets")

    assert rotate("--kind", "tickets", "--drop", "now")[0] == 0

    _check_at_a_door(_signed_by_a_new_task())
    with pytest.raises(InvalidCode):
        _check_at_a_door(printed)


def test_tokens_are_rotated_unless_it_is_said_otherwise(
    settings: Settings, rotate: Callable[..., tuple[int, str]]
) -> None:
    before = load_or_make(settings)
    rotate()
    tokens = load_or_make(settings)
    rotate("--kind", "tickets")
    both = load_or_make(settings)

    assert tokens.ticket_keys == before.ticket_keys != both.ticket_keys
    assert before.token_keys != tokens.token_keys == both.token_keys


def test_no_key_of_tickets_is_retired_by_time_alone(
    settings: Settings, rotate: Callable[..., tuple[int, str]]
) -> None:
    status, said = rotate("--kind", "tickets", "--drop", "retired")

    assert (status, "Tickets do not expire" in said) == (1, True)


def test_what_a_run_that_was_cut_off_left_is_completed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(aws, "put_ticket_keys", cut_off)
        assert main(["rotate-keys", "--kind", "tickets"]) == 130

    assert aws.provision(settings, load_or_make(settings)) == 1
    _check_at_a_door(_signed_by_a_new_task())
