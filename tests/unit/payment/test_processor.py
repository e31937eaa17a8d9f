"""The processor against fakes that keep what they were told, and a crash at every single step."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from payment.logic import HOLD_MARGIN, ROUTING_KEY_OF, Answer
from payment.mock_bank import DECLINED_REASON, decide
from payment.models import (
    BookingCreated,
    Outage,
    Payment,
    Received,
    State,
    UnexpectedAnswer,
    Unparseable,
)
from payment.processor import PaymentProcessor
from payment.provider import Charge, ChargeStatus
from ticketra.ids import uuid7
from ticketra.messages import PAYMENT_FAILED, PAYMENT_REFUNDED, PAYMENT_SUCCEEDED

CRASH_POINTS_LIMIT = 20
NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
BOOKING_ID = UUID(uuid7(int(NOW.timestamp() * 1000), 1))
LONG = timedelta(minutes=10)
SHORT = HOLD_MARGIN - timedelta(seconds=1)


class Crash(BaseException):
    """The process is gone."""


@dataclass
class World:
    """Everything outside the worker; it outlives a crash."""

    payment: Payment | None = None
    message_ids: set[str] = field(default_factory=set)
    charge: Charge | None = None
    charges_asked_for: int = 0
    refunds_paid: int = 0
    gone: str = ""
    now: datetime = NOW
    extended: int = 0
    confirmed: int = 0
    released: list[str] = field(default_factory=list)
    refunds_recorded: int = 0
    told: list[str] = field(default_factory=list)
    attempts: dict[str, tuple[State, str] | None] = field(default_factory=dict)
    request_ids: set[str] = field(default_factory=set)
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None

    def processor(self) -> PaymentProcessor:
        return PaymentProcessor(FakePayments(self), FakeProvider(self), FakeBookings(self))


@dataclass
class FakePayments:
    world: World

    async def record(self, message_id: str, booking: BookingCreated) -> Received:
        self.world.before()
        self.world.message_ids.add(message_id)
        started = self.world.payment is None
        payment = self.world.payment or Payment(
            booking.booking_id,
            booking.ticket_count,
            booking.amount_minor,
            booking.currency,
            State.STARTED,
            "",
        )
        self.world.payment = payment
        attempt = self._begin_attempt()
        self.world.after()
        return Received(payment, attempt, started, self.world.now)

    async def record_cancellation(self, message_id: str, booking_id: UUID) -> Received | None:
        self.world.before()
        self.world.message_ids.add(message_id)
        payment = self.world.payment
        attempt = "" if payment is None else self._begin_attempt()
        self.world.after()
        return None if payment is None else Received(payment, attempt, False, self.world.now)

    async def move(
        self, payment: Payment, state: State, reason: str, attempt: str, request_id: str
    ) -> Payment:
        self.world.before()
        assert self.world.payment is not None
        if self.world.payment.state is payment.state:
            self.world.payment = replace(payment, state=state, reason=reason)
            if state in ROUTING_KEY_OF:
                self.world.told.append(ROUTING_KEY_OF[state])
                self.world.attempts[attempt] = (state, "")
        self.world.after()
        return self.world.payment

    async def end_attempt(self, attempt: str, state: State, failure: str) -> None:
        self.world.before()
        self.world.attempts[attempt] = (state, failure)
        self.world.after()

    def _begin_attempt(self) -> str:
        attempt = f"attempt-{len(self.world.attempts) + 1}"
        self.world.attempts[attempt] = None
        return attempt


@dataclass
class FakeProvider:
    """Unlike a good provider it would charge twice, so that asking twice is seen."""

    world: World

    async def charge(
        self, *, booking_id: UUID, ticket_count: int, amount_minor: int, currency: str
    ) -> Charge:
        self.world.before()
        self.world.charges_asked_for += 1
        self.world.charge = decide(ticket_count)
        self.world.after()
        return self.world.charge

    async def look_up(self, booking_id: UUID) -> Charge | None:
        self.world.before()
        return self.world.charge

    async def refund(self, booking_id: UUID) -> Charge:
        self.world.before()
        if self.world.charge == Charge(ChargeStatus.PAID):
            self.world.refunds_paid += 1
            self.world.charge = Charge(ChargeStatus.REFUNDED)
        self.world.after()
        assert self.world.charge is not None
        return self.world.charge


@dataclass
class FakeBookings:
    world: World

    async def extend_hold(self, booking_id: UUID, request_id: str) -> str:
        self.world.before()
        self.world.request_ids.add(request_id)
        self.world.extended += 1
        self.world.after()
        return self.world.gone

    async def confirm(self, booking_id: UUID, request_id: str) -> tuple[Answer, str]:
        self.world.before()
        self.world.request_ids.add(request_id)
        if self.world.gone:
            return Answer.BOOKING_GONE, self.world.gone
        self.world.confirmed += 1
        self.world.after()
        return Answer.BOOKING_CONFIRMED, ""

    async def release(self, booking_id: UUID, reason: str, request_id: str) -> tuple[Answer, str]:
        self.world.before()
        self.world.released.append(reason)
        self.world.after()
        return Answer.BOOKING_RELEASED, reason

    async def record_refund(self, booking_id: UUID, request_id: str) -> Answer:
        self.world.before()
        self.world.request_ids.add(request_id)
        self.world.refunds_recorded += 1
        self.world.after()
        return Answer.REFUND_RECORDED


def body(ticket_count: int, hold_left: timedelta = LONG) -> bytes:
    return json.dumps(
        {
            "booking_id": str(BOOKING_ID),
            "ticket_count": ticket_count,
            "amount_minor": 100,
            "currency": "EUR",
            "hold_expires_at": (NOW + hold_left).isoformat(),
            "request_id": "abc-1",
        }
    ).encode()


async def handle(
    world: World, ticket_count: int = 2, message_id: str = "m1", *, hold_left: timedelta = LONG
) -> None:
    await world.processor().charge(message_id, body(ticket_count, hold_left))


def state_and_reason(world: World) -> tuple[State, str]:
    assert world.payment is not None
    return world.payment.state, world.payment.reason


@pytest.mark.parametrize("ticket_count", [1, 5])
async def test_a_payment_that_is_paid_confirms_its_booking(ticket_count: int) -> None:
    world = World()
    await handle(world, ticket_count)
    assert state_and_reason(world) == (State.SUCCEEDED, "")
    assert (world.charges_asked_for, world.confirmed, world.released) == (1, 1, [])
    assert world.extended == 0, "what goes well costs no further call"
    assert world.request_ids == {"abc-1"}
    assert world.told == [PAYMENT_SUCCEEDED]
    assert world.attempts == {"attempt-1": (State.SUCCEEDED, "")}


async def test_a_payment_that_is_declined_gives_the_tickets_back() -> None:
    world = World()
    await handle(world, ticket_count=6)
    assert state_and_reason(world) == (State.FAILED, DECLINED_REASON)
    assert (world.charges_asked_for, world.confirmed) == (1, 0)
    assert world.released == [DECLINED_REASON]
    assert world.extended == 0
    assert world.told == [PAYMENT_FAILED]


async def test_the_money_goes_back_when_the_booking_is_gone() -> None:
    world = World(gone="the tickets are gone")
    await handle(world)
    assert state_and_reason(world) == (State.REFUNDED, "the tickets are gone")
    assert (world.refunds_paid, world.confirmed, world.released) == (1, 0, [])
    assert world.refunds_recorded == 1
    assert world.told == [PAYMENT_REFUNDED]


async def test_a_charge_that_was_given_back_by_hand_gives_the_tickets_back() -> None:
    world = World(charge=Charge(ChargeStatus.REFUNDED))
    await FakePayments(world).record("m1", BookingCreated.model_validate_json(body(2)))
    await handle(world)
    assert state_and_reason(world) == (State.FAILED, "refunded")
    assert (world.charges_asked_for, world.released) == (0, ["refunded"])


@pytest.mark.parametrize("message_id", ["m1", "m2"])
async def test_a_second_delivery_has_no_second_effect(message_id: str) -> None:
    world = World()
    await handle(world)
    await handle(world, message_id=message_id)
    assert (world.charges_asked_for, world.confirmed) == (1, 1)
    assert world.message_ids == {"m1", message_id}
    assert world.told == [PAYMENT_SUCCEEDED]
    assert list(world.attempts.values()) == [(State.SUCCEEDED, "")] * 2


async def test_what_cannot_be_parsed_leaves_no_trace() -> None:
    world = World()
    with pytest.raises(Unparseable):
        await world.processor().charge("m1", b"{}")
    with pytest.raises(Unparseable):
        await world.processor().charge(None, body(2))
    assert world == World()


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("ticket_count", "gone", "final_state"),
    [(2, "", State.SUCCEEDED), (6, "", State.FAILED), (2, "gone", State.REFUNDED)],
)
async def test_a_crash_at_any_point_resumes_on_redelivery(
    moment: str, ticket_count: int, gone: str, final_state: State
) -> None:
    crashes = 0
    for crash_point in range(CRASH_POINTS_LIMIT):
        world = World(gone=gone)
        setattr(world, moment, crash_at(crash_point))
        try:
            await handle(world, ticket_count)
        except Crash:
            crashes += 1
            setattr(world, moment, lambda: None)
            await handle(world, ticket_count)
        assert state_and_reason(world)[0] is final_state, crash_point
        assert world.charges_asked_for == 1, crash_point
        assert world.refunds_paid == (final_state is State.REFUNDED), crash_point
        assert world.told == [ROUTING_KEY_OF[final_state]], crash_point
    assert 4 <= crashes < CRASH_POINTS_LIMIT  # each step was hit, and none was left out


def crash_at(crash_point: int) -> Callable[[], None]:
    left = crash_point

    def count_down() -> None:
        nonlocal left
        if left == 0:
            raise Crash
        left -= 1

    return count_down


async def test_an_outage_leaves_the_payment_where_it_got_to() -> None:
    world = World()
    calls = 0

    def booking_is_away() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:  # record, charge, move, confirm
            raise Outage("booking is away")

    world.before = booking_is_away
    with pytest.raises(Outage):
        await handle(world)
    assert state_and_reason(world) == (State.PAID, "")
    assert world.told == []
    assert world.attempts == {"attempt-1": (State.PAID, "booking is away")}


async def test_an_attempt_that_a_bug_ended_says_so_and_holds_the_tickets() -> None:
    world = World()
    calls = 0

    def provider_breaks() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # record, charge
            raise RuntimeError("a\nbug")

    world.before = provider_breaks
    with pytest.raises(RuntimeError):
        await handle(world)
    assert world.attempts == {"attempt-1": (State.STARTED, "a bug")}
    assert world.extended == 1


async def test_a_payment_that_another_delivery_moved_goes_on_from_there() -> None:
    world = World()

    def other_delivery_finishes() -> None:
        if world.confirmed and world.payment is not None:
            world.payment = replace(world.payment, state=State.REFUNDED, reason="cancelled")

    world.after = other_delivery_finishes
    await handle(world)
    assert state_and_reason(world) == (State.REFUNDED, "cancelled")


async def test_a_refund_that_is_refused_is_not_taken_for_one() -> None:
    world = World(gone="gone")
    handled = 0

    def charge_turns_declined() -> None:
        nonlocal handled
        handled += 1
        if world.payment is not None and world.payment.state is State.REFUNDING:
            world.charge = Charge(ChargeStatus.DECLINED, "closed account")

    world.before = charge_turns_declined
    with pytest.raises(UnexpectedAnswer):
        await handle(world)
    assert state_and_reason(world) == (State.REFUNDING, "gone")
