"""What the mock bank is told by the command is what it does."""

from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple
from uuid import uuid4

import pytest

from payment import bank
from payment.mock_bank import Behaviour, MockBank
from payment.models import Outage
from payment.provider import Charge, ChargeStatus
from tests.integration import servers
from tests.integration.payment.database import ROLE_PASSWORD, Database
from ticketra.database import Database as Orders

AT_ONCE = "The mock bank answers at once.\n"
SOON = "It does so within 0.5 s.\n"


class Done(NamedTuple):
    code: int
    output: str
    error: str


Command = Callable[..., Done]


@pytest.fixture
def command(
    postgres: servers.Server,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Command]:
    """Run the command as `make bank` does, but in this process; the bank forgets it at the end."""
    monkeypatch.setenv("POSTGRES_URL", f"{postgres.url}/orders")
    monkeypatch.setenv("POSTGRES_USERNAME", "payment")
    monkeypatch.setenv("POSTGRES_PASSWORD", ROLE_PASSWORD)

    def run(*arguments: str) -> Done:
        code = bank.main(arguments)
        return Done(code, *capsys.readouterr())

    yield run
    with database.admin() as connection:
        connection.execute("DELETE FROM payment.mock_bank_behaviour")


def test_a_behaviour_is_told_changed_and_ended(command: Command) -> None:
    assert command() == (0, AT_ONCE, "")
    assert command("--slow", "2000", "--twice", "50") == (
        0,
        "SLOW=2000: answers after 2000 ms\nTWICE=50: is asked twice for 50 of 100 charges\n" + SOON,
        "",
    )
    assert command("--slow", "7", "--twice", "0", "--late", "30000").output == (
        "SLOW=7: answers after 7 ms\nLATE=30000: decides 30000 ms after it was asked\n" + SOON
    )
    assert command().output.splitlines()[0] == "SLOW=7: answers after 7 ms"
    assert command("--reset", "--fail", "30", "--time-out", "20").output == (
        "TIME_OUT=20: makes 20 of 100 charges without answering\n"
        "FAIL=30: fails for 30 of 100 charges, and makes every second of them\n" + SOON
    )
    assert command("--reset") == (0, AT_ONCE + SOON, "")


@pytest.mark.parametrize(
    ("option", "wrong", "most"),
    [
        ("slow", "60001", "60000 (ms)"),
        ("time_out", "101", "100 (of 100 charges)"),
        ("fail", "1.5", "100 (of 100 charges)"),
        ("twice", "-1", "100 (of 100 charges)"),
        ("late", "7200001", "7200000 (ms)"),
        ("late", "9" * 5000, "7200000 (ms)"),
        ("slow", "²", "60000 (ms)"),
        ("slow", "", "60000 (ms)"),
    ],
)
def test_an_amount_out_of_range_changes_nothing(
    command: Command, option: str, wrong: str, most: str
) -> None:
    command("--twice", "50")
    done = command(f"--{option.replace('_', '-')}={wrong}", "--reset")
    assert done == (
        2,
        "",
        f"{option.upper()}={wrong}: a whole number from 0 to {most} is needed; 0 ends it.\n",
    )
    assert command().output.startswith("TWICE=50")


def test_every_wrong_amount_is_named(command: Command) -> None:
    error = command("--slow=x", "--fail=y").error
    assert [row.split(":")[0] for row in error.splitlines()] == ["SLOW=x", "FAIL=y"]


@pytest.mark.parametrize("behaviour", Behaviour)
def test_the_most_that_can_be_told_can_be_stored(command: Command, behaviour: Behaviour) -> None:
    most = bank.RANGES[behaviour].most
    done = command(f"--{behaviour.replace('_', '-')}", f"{most}")
    assert done.output.startswith(f"{behaviour.upper()}={most}:")


async def test_the_bank_does_what_it_was_told(command: Command, orders: Orders) -> None:
    async def charge() -> Charge:
        mock_bank = MockBank(orders, Random(1))
        return await mock_bank.charge(
            booking_id=uuid4(), ticket_count=2, amount_minor=200, currency="EUR"
        )

    async with await orders.connect("tell") as connection:
        await bank.tell(connection, {Behaviour.LATE: 60_000}, reset=True)
        assert (await charge()).status is ChargeStatus.PENDING
        await bank.tell(connection, {Behaviour.FAIL: 100}, reset=True)
        with pytest.raises(Outage, match="failed"):
            await charge()
        await bank.tell(connection, {}, reset=True)
        assert (await charge()).status is ChargeStatus.PAID


def test_a_database_that_is_away_is_said_to_be(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_URL", f"postgresql://127.0.0.1:{servers.free_port()}/orders")
    done = command("--slow", "1")
    assert done.code == 2
    assert done.error.startswith("The mock bank was told nothing: ")
    assert ROLE_PASSWORD not in done.error
