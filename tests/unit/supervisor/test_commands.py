"""What the commands of functions are run with, and what becomes of their exit status."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from supervisor import __main__
from supervisor.commands import Commands
from supervisor.reconcile import reconcile
from supervisor.secrets import load_or_make
from supervisor.server import ServerError
from supervisor.settings import Settings


class Calls:
    """What was run, instead of running it."""

    def __init__(self) -> None:
        self.made: list[tuple[str, list[str], Mapping[str, str]]] = []
        self.statuses: dict[str, int] = {}

    def run(self, module: str, arguments: Sequence[str], variables: Mapping[str, str]) -> int:
        self.made.append((module, list(arguments), variables))
        return self.statuses.get(module, 0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr(Commands, "run", lambda _, *arguments: calls.run(*arguments))
    return calls


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    settings = Settings(home=tmp_path)
    load_or_make(settings)
    settings.endpoints_file.parent.mkdir(parents=True, exist_ok=True)
    settings.endpoints_file.write_text(
        json.dumps({"postgres_url": "postgresql://h:1", "rabbitmq_url": "amqp://h:2/%2F"})
    )
    monkeypatch.setattr(Settings, "load", lambda: settings)
    return settings


@pytest.mark.parametrize(
    ("typed", "run"),
    [
        (["dlq"], []),
        (["dlq", "--show=x"], ["--show=x"]),
        (["dlq", "--replay=all"], ["--replay=all"]),
        (["dlq", "--discard=-x"], ["--discard=-x"]),
    ],
)
def test_dead_letters_are_dealt_with_at_the_broker(
    settings: Settings, calls: Calls, typed: list[str], run: list[str]
) -> None:
    calls.statuses["payment.dlq"] = 1
    assert __main__.main(typed) == 1
    [(module, arguments, variables)] = calls.made
    assert (module, arguments) == ("payment.dlq", run)
    assert variables["RABBITMQ_URL"] == "amqp://h:2/%2F"
    assert variables["RABBITMQ_PASSWORD"]
    assert not [name for name in variables if name.startswith("POSTGRES")]


def test_the_bank_is_told_in_payment_s_name(settings: Settings, calls: Calls) -> None:
    assert __main__.main(["bank", "--time-out=20", "--late=0", "--reset"]) == 0
    [(module, arguments, variables)] = calls.made
    assert (module, arguments) == ("payment.bank", ["--time-out=20", "--late=0", "--reset"])
    assert variables["POSTGRES_URL"] == "postgresql://h:1/orders"
    assert variables["POSTGRES_USERNAME"] == "payment"


def test_void_tickets_are_listed_in_booking_s_name(settings: Settings, calls: Calls) -> None:
    calls.statuses["booking.void_tickets"] = 1
    assert __main__.main(["void-tickets", "--", "-6b02c8aa"]) == 1
    [(module, arguments, variables)] = calls.made
    assert (module, arguments) == ("booking.void_tickets", ["--", "-6b02c8aa"])
    assert variables["POSTGRES_URL"] == "postgresql://h:1/orders"
    assert variables["POSTGRES_USERNAME"] == "booking"


@pytest.mark.parametrize(
    ("booking", "payment", "worse"),
    [(0, 0, 0), (1, 0, 1), (0, 1, 1), (2, 1, 2), (1, 2, 2), (0, -9, 2), (-15, 1, 2)],
)
def test_both_books_are_checked_and_the_worse_is_told(
    settings: Settings, calls: Calls, booking: int, payment: int, worse: int
) -> None:
    calls.statuses = {"booking.reconcile": booking, "payment.reconcile": payment}
    assert reconcile(settings, repair=False) == worse
    assert [module for module, *_ in calls.made] == ["booking.reconcile", "payment.reconcile"]


def test_both_are_repaired_each_in_its_own_name(settings: Settings, calls: Calls) -> None:
    assert __main__.main(["reconcile", "--repair"]) == 0
    users = {module: variables["POSTGRES_USERNAME"] for module, _, variables in calls.made}
    assert users == {"booking.reconcile": "booking", "payment.reconcile": "payment"}
    assert {tuple(arguments) for _, arguments, _ in calls.made} == {("--repair",)}
    assert calls.made[1][2]["RABBITMQ_URL"] == "amqp://h:2/%2F"


def test_nothing_is_run_where_nothing_was_started(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="make up"):
        reconcile(Settings(home=tmp_path), repair=False)
