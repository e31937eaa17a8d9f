"""The mock bank keeps the promises of payment.provider.Provider, on a real database."""

from random import Random
from uuid import UUID, uuid4

import pytest

from payment.mock_bank import DECLINED_REASON, MockBank
from payment.models import Outage, UnexpectedAnswer
from payment.provider import Charge, ChargeStatus
from ticketra.database import Database

PAID = Charge(ChargeStatus.PAID)
DECLINED = Charge(ChargeStatus.DECLINED, DECLINED_REASON)


@pytest.fixture
def bank(orders: Database) -> MockBank:
    return MockBank(orders, Random(1))


async def charge(bank: MockBank, booking_id: UUID, ticket_count: int) -> Charge:
    return await bank.charge(
        booking_id=booking_id, ticket_count=ticket_count, amount_minor=100, currency="EUR"
    )


@pytest.mark.parametrize(("ticket_count", "answer"), [(1, PAID), (5, PAID), (6, DECLINED)])
async def test_a_few_tickets_are_paid_and_more_are_declined(
    bank: MockBank, ticket_count: int, answer: Charge
) -> None:
    booking_id = uuid4()
    assert await bank.look_up(booking_id) is None
    assert await charge(bank, booking_id, ticket_count) == answer
    assert await bank.look_up(booking_id) == answer


async def test_asked_again_it_answers_as_the_first_time(bank: MockBank) -> None:
    booking_id = uuid4()
    await charge(bank, booking_id, 2)
    assert await charge(bank, booking_id, 6) == PAID


async def test_a_refund_is_given_once_and_only_for_what_was_paid(bank: MockBank) -> None:
    paid, declined = uuid4(), uuid4()
    await charge(bank, paid, 2)
    await charge(bank, declined, 6)
    for _ in range(2):
        assert (await bank.refund(paid)).status is ChargeStatus.REFUNDED
    assert (await charge(bank, paid, 2)).status is ChargeStatus.REFUNDED
    assert await bank.refund(declined) == DECLINED


async def test_a_refund_of_nothing_is_an_error(bank: MockBank) -> None:
    with pytest.raises(UnexpectedAnswer):
        await bank.refund(uuid4())


async def test_a_bank_that_cannot_be_reached_is_an_outage() -> None:
    nowhere = Database("postgresql://127.0.0.1:1/orders", "payment", "", name="test")
    with pytest.raises(Outage):
        await MockBank(nowhere, Random(1)).look_up(uuid4())
