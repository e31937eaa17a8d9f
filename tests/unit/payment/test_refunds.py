"""What a booking does to its payment that was confirmed and is cancelled."""

import json
from dataclasses import replace

import pytest

from payment.models import Outage, Payment, State, UnexpectedAnswer, Unparseable
from payment.provider import Charge, ChargeStatus
from tests.unit.payment.test_processor import (
    BOOKING_ID,
    CRASH_POINTS_LIMIT,
    Crash,
    World,
    crash_at,
    handle,
    state_and_reason,
)
from ticketra.messages import PAYMENT_REFUNDED, PAYMENT_SUCCEEDED

REASON = "The event was cancelled."


def cancellation(payment_status: str = "refunding") -> bytes:
    return json.dumps(
        {
            "booking_id": str(BOOKING_ID),
            "payment_status": payment_status,
            "reason": REASON,
            "request_id": "abc-2",
        }
    ).encode()


async def cancel(world: World, message_id: str = "c1", payment_status: str = "refunding") -> None:
    await world.processor().refund(message_id, cancellation(payment_status))


async def confirmed() -> World:
    """Return a world in which a booking was paid and confirmed."""
    world = World()
    await handle(world)
    assert state_and_reason(world) == (State.SUCCEEDED, "")
    return world


def at(state: State) -> World:
    """Return a world in which a payment stands in `state`."""
    payment = Payment(BOOKING_ID, 2, 100, "EUR", state, "before")
    return World(payment=payment, charge=Charge(ChargeStatus.PAID))


async def test_the_money_of_a_cancelled_booking_goes_back_and_booking_is_told() -> None:
    world = await confirmed()
    await cancel(world)
    assert state_and_reason(world) == (State.REFUNDED, REASON)
    assert world.charge == Charge(ChargeStatus.REFUNDED)
    assert (world.refunds_paid, world.refunds_recorded) == (1, 1)
    assert world.told == [PAYMENT_SUCCEEDED, PAYMENT_REFUNDED]
    assert world.message_ids == {"m1", "c1"}
    assert world.request_ids == {"abc-1", "abc-2"}
    assert world.attempts["attempt-2"] == (State.REFUNDED, "")


@pytest.mark.parametrize("message_id", ["c1", "c2"])
async def test_a_second_cancellation_has_no_second_effect(message_id: str) -> None:
    world = await confirmed()
    await cancel(world)
    await cancel(world, message_id)
    assert (world.refunds_paid, world.refunds_recorded) == (1, 1)
    assert world.told == [PAYMENT_SUCCEEDED, PAYMENT_REFUNDED]
    assert world.attempts["attempt-3"] == (State.REFUNDED, "")


async def test_a_cancellation_may_overtake_the_note_that_the_booking_was_confirmed() -> None:
    world = at(State.PAID)
    await cancel(world)
    assert state_and_reason(world) == (State.REFUNDED, REASON)
    assert (world.refunds_paid, world.confirmed) == (1, 0)


async def test_a_refund_is_decided_again_if_the_confirmation_is_noted_in_that_moment() -> None:
    """Another worker, which has just confirmed the booking, moves the payment first."""
    world = at(State.PAID)

    def note_confirmation() -> None:
        assert world.payment is not None
        if world.payment.state is State.PAID:
            world.payment = replace(world.payment, state=State.SUCCEEDED)

    world.after = note_confirmation
    await cancel(world)
    assert state_and_reason(world) == (State.REFUNDED, REASON)
    assert (world.refunds_paid, world.refunds_recorded) == (1, 1)


async def test_a_refund_that_was_begun_is_ended_for_its_first_reason() -> None:
    world = at(State.REFUNDING)
    await cancel(world)
    assert state_and_reason(world) == (State.REFUNDED, "before")
    assert world.refunds_paid == 1


async def test_a_charge_message_that_comes_again_ends_a_refund_that_was_begun() -> None:
    world = at(State.REFUNDING)
    await handle(world)
    assert state_and_reason(world) == (State.REFUNDED, "before")
    assert (world.refunds_paid, world.refunds_recorded) == (1, 1)


@pytest.mark.parametrize("payment_status", ["pending", "paid", "declined", "refunded"])
async def test_a_cancellation_without_money_to_return_changes_nothing(payment_status: str) -> None:
    world = await confirmed()
    before = replace(world, message_ids=set(world.message_ids))
    await cancel(world, payment_status=payment_status)
    assert world == before


@pytest.mark.parametrize(
    "state", [State.STARTED, State.DECLINED, State.FAILED, State.ABANDONED], ids=str
)
async def test_a_payment_that_cannot_have_confirmed_anything_stays_as_it_is(state: State) -> None:
    world = at(state)
    with pytest.raises(UnexpectedAnswer, match="confirmed"):
        await cancel(world)
    assert state_and_reason(world) == (state, "before")
    assert (world.refunds_paid, world.refunds_recorded) == (0, 0)
    assert [outcome is not None and outcome[0] for outcome in world.attempts.values()] == [state]


async def test_an_unknown_payment_is_no_success() -> None:
    world = World()
    with pytest.raises(UnexpectedAnswer, match="without a payment"):
        await cancel(world)
    assert (world.payment, world.refunds_recorded, world.attempts) == (None, 0, {})


async def test_a_cancellation_that_cannot_be_parsed_leaves_no_trace() -> None:
    world = World()
    with pytest.raises(Unparseable):
        await world.processor().refund("c1", b"{}")
    with pytest.raises(Unparseable):
        await world.processor().refund(None, cancellation())
    assert world == World()


async def test_money_that_went_back_is_not_sent_again_while_booking_is_away() -> None:
    world = await confirmed()

    def booking_is_away() -> None:
        if world.refunds_paid:
            raise Outage("booking is away")

    world.after = booking_is_away
    with pytest.raises(Outage):
        await cancel(world)
    assert state_and_reason(world) == (State.REFUNDING, REASON)
    assert world.told == [PAYMENT_SUCCEEDED]
    world.after = lambda: None
    await cancel(world)
    assert state_and_reason(world) == (State.REFUNDED, REASON)
    assert (world.refunds_paid, world.refunds_recorded) == (1, 1)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_crash_at_any_point_of_a_refund_resumes_on_redelivery(moment: str) -> None:
    crashes = 0
    for crash_point in range(CRASH_POINTS_LIMIT):
        world = await confirmed()
        setattr(world, moment, crash_at(crash_point))
        try:
            await cancel(world)
        except Crash:
            crashes += 1
            setattr(world, moment, lambda: None)
            await cancel(world)
        assert state_and_reason(world) == (State.REFUNDED, REASON), crash_point
        assert world.refunds_paid == 1, crash_point
        assert world.refunds_recorded in {1, 2}, crash_point
        assert world.told == [PAYMENT_SUCCEEDED, PAYMENT_REFUNDED], crash_point
    assert 4 <= crashes < CRASH_POINTS_LIMIT
