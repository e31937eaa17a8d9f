"""When the worker has a hold extended, and what it does once a booking holds no tickets."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from payment.logic import LONG_WAIT
from payment.models import BookingCreated, Outage, State, UnexpectedAnswer
from payment.processor import PaymentProcessor
from payment.provider import Charge, ChargeStatus
from tests.unit.payment.test_processor import (
    BOOKING_ID,
    CRASH_POINTS_LIMIT,
    LONG,
    NOW,
    SHORT,
    Crash,
    FakeBookings,
    FakePayments,
    FakeProvider,
    World,
    body,
    crash_at,
    handle,
    state_and_reason,
)

GONE = "The booking expired before it was paid."


class ProviderAway(FakeProvider):
    """Answers nothing; `error` is what comes instead."""

    error: Exception = Outage("the provider does not answer")

    async def charge(self, **_: object) -> Charge:
        raise self.error


class BookingAway(FakeBookings):
    """Takes no extension."""

    async def extend_hold(self, *_: object) -> str:
        await super().extend_hold(BOOKING_ID, "")
        raise Outage("booking is away")


async def start(world: World) -> None:
    """Let the payment be there from an earlier delivery."""
    await FakePayments(world).record("m0", BookingCreated.model_validate_json(body(2)))


async def handle_with(
    world: World,
    provider: type[FakeProvider] = FakeProvider,
    bookings: type[FakeBookings] = FakeBookings,
    hold_left: timedelta = LONG,
) -> None:
    processor = PaymentProcessor(FakePayments(world), provider(world), bookings(world))
    await processor.charge("m1", body(2, hold_left))


@pytest.mark.parametrize("hold_left", [SHORT, timedelta(), -LONG])
async def test_a_short_hold_is_extended_before_the_provider_is_asked(hold_left: timedelta) -> None:
    world = World()
    charges_at_extension: list[int] = []

    def look() -> None:
        if world.extended and not charges_at_extension:
            charges_at_extension.append(world.charges_asked_for)

    world.after = look
    await handle(world, hold_left=hold_left)
    assert charges_at_extension == [0]
    assert (world.extended, world.confirmed) == (1, 1)
    assert world.request_ids == {"abc-1"}


async def test_a_short_hold_is_also_extended_before_a_charge_is_looked_up() -> None:
    world = World(charge=Charge(ChargeStatus.PAID))
    await start(world)
    await handle(world, hold_left=SHORT)
    assert (world.extended, world.charges_asked_for, world.confirmed) == (1, 0, 1)


@pytest.mark.parametrize("state", [state for state in State if state is not State.STARTED])
async def test_no_hold_is_extended_once_the_outcome_is_known(state: State) -> None:
    world = World(charge=Charge(ChargeStatus.PAID))
    await start(world)
    assert world.payment is not None
    world.payment = replace(world.payment, state=state, reason="before")
    await handle(world, hold_left=SHORT)
    assert world.extended == 0


@pytest.mark.parametrize(
    "error", [Outage("the provider does not answer"), UnexpectedAnswer("what?")], ids=repr
)
@pytest.mark.parametrize(("hold_left", "extensions"), [(LONG, 1), (SHORT, 2)])
async def test_an_attempt_without_an_outcome_extends_the_hold_until_the_next(
    error: Exception,
    hold_left: timedelta,
    extensions: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    monkeypatch.setattr(ProviderAway, "error", error)
    with pytest.raises(type(error), match=str(error)):
        await handle_with(world, ProviderAway, hold_left=hold_left)
    assert state_and_reason(world) == (State.STARTED, "")
    assert world.extended == extensions
    await handle(world)
    assert state_and_reason(world) == (State.SUCCEEDED, "")


async def test_an_outcome_that_could_not_be_stored_extends_the_hold() -> None:
    world = World()

    def database_is_away() -> None:
        if world.charge is not None and not world.extended:
            raise Outage("PostgreSQL is away")

    world.after = database_is_away
    with pytest.raises(Outage, match="PostgreSQL"):
        await handle(world)
    assert (world.extended, state_and_reason(world)[0]) == (1, State.STARTED)


async def test_the_first_failure_is_reported_when_the_hold_cannot_be_extended_after_it() -> None:
    world = World()
    with pytest.raises(Outage, match="provider"):
        await handle_with(world, ProviderAway, BookingAway)
    assert world.extended == 1


async def test_the_provider_is_not_asked_while_nobody_knows_whether_the_tickets_are_held() -> None:
    world = World()
    with pytest.raises(Outage, match="booking is away"):
        await handle_with(world, bookings=BookingAway, hold_left=SHORT)
    assert (world.extended, world.charges_asked_for) == (1, 0)
    assert state_and_reason(world) == (State.STARTED, "")


@pytest.mark.parametrize("was_started", [False, True])
async def test_nothing_is_charged_for_a_booking_that_is_gone(was_started: bool) -> None:
    world = World(gone=GONE)
    if was_started:
        await start(world)
    await handle(world, hold_left=SHORT)
    assert state_and_reason(world) == (State.ABANDONED, GONE)
    assert (world.charges_asked_for, world.confirmed, world.refunds_paid) == (0, 0, 0)
    assert world.released == [GONE]
    assert world.extended == 1


async def test_a_booking_that_waited_for_long_and_was_cancelled_meanwhile_is_not_charged() -> None:
    world = World(gone=GONE, now=NOW + LONG_WAIT + timedelta(milliseconds=1))
    await handle(world)
    assert state_and_reason(world) == (State.ABANDONED, GONE)
    assert (world.extended, world.charges_asked_for) == (1, 0)


async def test_booking_is_not_asked_for_one_that_was_just_made() -> None:
    world = World(now=NOW + LONG_WAIT)
    await handle(world)
    assert (world.extended, world.charges_asked_for, world.confirmed) == (0, 1, 1)


async def test_a_charge_that_was_made_before_takes_the_way_of_a_late_payment() -> None:
    world = World(gone=GONE, charge=Charge(ChargeStatus.PAID))
    await start(world)
    await handle(world, hold_left=SHORT)
    assert state_and_reason(world) == (State.REFUNDED, GONE)
    assert (world.charges_asked_for, world.refunds_paid, world.released) == (0, 1, [])


async def test_a_gone_booking_is_not_extended_while_the_provider_is_away() -> None:
    class LookUpAway(FakeProvider):
        async def look_up(self, *_: object) -> Charge | None:
            raise Outage("the provider does not answer")

    world = World(gone=GONE)
    await start(world)
    with pytest.raises(Outage):
        await handle_with(world, LookUpAway, hold_left=SHORT)
    assert world.extended == 1


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_crash_while_a_payment_is_abandoned_resumes_on_redelivery(moment: str) -> None:
    crashes = 0
    for crash_point in range(CRASH_POINTS_LIMIT):
        world = World(gone=GONE)
        setattr(world, moment, crash_at(crash_point))
        try:
            await handle(world, hold_left=SHORT)
        except Crash:
            crashes += 1
            setattr(world, moment, lambda: None)
            await handle(world, hold_left=SHORT)
        assert state_and_reason(world) == (State.ABANDONED, GONE), crash_point
        assert (world.charges_asked_for, set(world.released)) == (0, {GONE}), crash_point
    assert 4 <= crashes < CRASH_POINTS_LIMIT


class AbandonedMeanwhile(FakeProvider):
    """Takes the money while another delivery finds no charge and the booking gone."""

    async def charge(self, **charge: object) -> Charge:
        assert self.world.payment is not None
        self.world.payment = replace(self.world.payment, state=State.ABANDONED, reason=GONE)
        return await super().charge(**charge)  # type: ignore[arg-type]


async def test_a_charge_that_crosses_with_an_abandonment_is_given_back() -> None:
    world = World(gone=GONE)
    await handle_with(world, AbandonedMeanwhile)
    assert state_and_reason(world) == (State.REFUNDED, GONE)
    assert (world.charges_asked_for, world.refunds_paid, world.confirmed) == (1, 1, 0)


async def test_a_crash_after_such_a_charge_gives_it_back_on_redelivery() -> None:
    world = World(gone=GONE)
    world.after = crash_when(lambda: world.charge is not None)
    with pytest.raises(Crash):
        await handle_with(world, AbandonedMeanwhile)
    world.after = lambda: None
    await handle(world)
    assert state_and_reason(world) == (State.REFUNDED, GONE)
    assert (world.charges_asked_for, world.refunds_paid) == (1, 1)


def crash_when(holds: Callable[[], bool]) -> Callable[[], None]:
    def crash() -> None:
        if holds():
            raise Crash

    return crash
