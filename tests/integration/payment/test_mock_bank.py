"""The mock bank keeps the promises of payment.provider.Provider, on a real database."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from payment.mock_bank import DECLINED_REASON, MockBank
from payment.models import Outage, UnexpectedAnswer
from payment.postgres import create_pool
from payment.provider import Charge, ChargeStatus
from tests.integration.payment.conftest import ROLE_PASSWORD
from tests.integration.servers import Server

PAID = Charge(ChargeStatus.PAID)
DECLINED = Charge(ChargeStatus.DECLINED, DECLINED_REASON)


@pytest.fixture
def bank(postgres: Server) -> Iterator[MockBank]:
    url = f"{postgres.url}/orders"
    with create_pool(url, "payment", ROLE_PASSWORD, name="test", size=1) as pool:
        yield MockBank(pool)


def charge(bank: MockBank, booking_id: UUID, ticket_count: int) -> Charge:
    return bank.charge(
        booking_id=booking_id, ticket_count=ticket_count, amount_minor=100, currency="EUR"
    )


@pytest.mark.parametrize(("ticket_count", "answer"), [(1, PAID), (5, PAID), (6, DECLINED)])
def test_a_few_tickets_are_paid_and_more_are_declined(
    bank: MockBank, ticket_count: int, answer: Charge
) -> None:
    booking_id = uuid4()
    assert bank.look_up(booking_id) is None
    assert charge(bank, booking_id, ticket_count) == answer
    assert bank.look_up(booking_id) == answer


def test_asked_again_it_answers_as_the_first_time(bank: MockBank) -> None:
    booking_id = uuid4()
    charge(bank, booking_id, 2)
    assert charge(bank, booking_id, 6) == PAID


def test_a_refund_is_given_once_and_only_for_what_was_paid(bank: MockBank) -> None:
    paid, declined = uuid4(), uuid4()
    charge(bank, paid, 2)
    charge(bank, declined, 6)
    for _ in range(2):
        assert bank.refund(paid).status is ChargeStatus.REFUNDED
    assert charge(bank, paid, 2).status is ChargeStatus.REFUNDED
    assert bank.refund(declined) == DECLINED


def test_a_refund_of_nothing_is_an_error(bank: MockBank) -> None:
    with pytest.raises(UnexpectedAnswer):
        bank.refund(uuid4())


def test_a_bank_that_cannot_be_reached_is_an_outage() -> None:
    url = "postgresql://127.0.0.1:1/orders"
    with (
        create_pool(url, "payment", "", name="test", size=1) as pool,
        pytest.raises(Outage),
    ):
        MockBank(pool).look_up(uuid4())
