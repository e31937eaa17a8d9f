"""Many payments at once, one booking's messages one by one, and a provider that is slow."""

import asyncio
import json
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from payment.models import BookingCreated, Outage, Payment, Received, State
from payment.processor import PaymentProcessor
from payment.provider import Charge
from tests.unit.payment.test_processor import (
    BOOKING_ID,
    FakeBookings,
    FakePayments,
    FakeProvider,
    World,
    body,
    state_and_reason,
)

OTHER_ID = uuid4()


class SlowProvider(FakeProvider):
    """Answers for BOOKING_ID once it may; `inside` counts who is being served."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.may_answer = asyncio.Event()
        self.inside = 0
        self.most_inside = 0

    async def charge(
        self, *, booking_id: UUID, ticket_count: int, amount_minor: int, currency: str
    ) -> Charge:
        await self._serve(booking_id)
        return await super().charge(
            booking_id=booking_id,
            ticket_count=ticket_count,
            amount_minor=amount_minor,
            currency=currency,
        )

    async def refund(self, booking_id: UUID) -> Charge:
        await self._serve(booking_id)
        return await super().refund(booking_id)

    async def _serve(self, booking_id: UUID) -> None:
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        if booking_id == BOOKING_ID:
            await self.may_answer.wait()
        self.inside -= 1


class ByBooking(FakePayments):
    """Keeps each booking's payment in a world of its own."""

    def __init__(self, worlds: dict[UUID, World]) -> None:
        self._worlds = worlds

    async def record(self, message_id: str, booking: BookingCreated) -> Received:
        return await FakePayments(self._worlds[booking.booking_id]).record(message_id, booking)

    async def move(
        self, payment: Payment, state: State, reason: str, attempt: str, request_id: str
    ) -> Payment:
        payments = FakePayments(self._worlds[payment.booking_id])
        return await payments.move(payment, state, reason, attempt, request_id)


def body_of(booking_id: UUID) -> bytes:
    return json.dumps(json.loads(body(2)) | {"booking_id": str(booking_id)}).encode()


def processor_with(world: World, provider: FakeProvider) -> PaymentProcessor:
    return PaymentProcessor(FakePayments(world), provider, FakeBookings(world))


async def until(holds: Callable[[], object]) -> None:
    """Let others run until `holds` is true."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - whatever it is
            await asyncio.sleep(0)


async def idle() -> None:
    """Let others run for as long as anything could happen."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_messages_about_one_booking_take_turns() -> None:
    world = World()
    provider = SlowProvider(world)
    processor = processor_with(world, provider)
    charges = [asyncio.ensure_future(processor.charge(f"m{n}", body(2))) for n in range(3)]
    await until(lambda: provider.inside)
    await idle()
    assert world.message_ids == {"m0"}
    provider.may_answer.set()
    await asyncio.gather(*charges)
    assert world.message_ids == {"m0", "m1", "m2"}
    assert (world.charges_asked_for, world.confirmed, provider.most_inside) == (1, 1, 1)
    assert state_and_reason(world) == (State.SUCCEEDED, "")


async def test_a_cancellation_waits_for_the_charge_of_its_booking() -> None:
    world = World()
    provider = SlowProvider(world)
    processor = processor_with(world, provider)
    charge = asyncio.ensure_future(processor.charge("m1", body(2)))
    await until(lambda: provider.inside)
    cancelled = json.dumps({"booking_id": str(BOOKING_ID), "payment_status": "refunding"})
    refund = asyncio.ensure_future(processor.refund("c1", cancelled.encode()))
    await idle()
    assert world.message_ids == {"m1"}
    provider.may_answer.set()
    await asyncio.gather(charge, refund)
    assert state_and_reason(world) == (State.REFUNDED, "")
    assert (world.refunds_paid, provider.most_inside) == (1, 1)


async def test_the_next_in_turn_goes_on_after_one_that_failed() -> None:
    world = World()
    failures = iter([Outage("away")])

    class FailsOnce(FakeProvider):
        async def charge(self, **charge: object) -> Charge:
            for failure in failures:
                raise failure
            return await super().charge(**charge)  # type: ignore[arg-type]

    processor = processor_with(world, FailsOnce(world))
    first, second = await asyncio.gather(
        processor.charge("m1", body(2)), processor.charge("m2", body(2)), return_exceptions=True
    )
    assert isinstance(first, Outage)
    assert second is None
    assert state_and_reason(world) == (State.SUCCEEDED, "")


async def test_a_slow_provider_does_not_hold_up_other_payments() -> None:
    slow, other = World(), World()
    worlds = {BOOKING_ID: slow, OTHER_ID: other}
    provider = SlowProvider(slow)
    processor = PaymentProcessor(ByBooking(worlds), provider, FakeBookings(other))
    waiting = asyncio.ensure_future(processor.charge("m1", body(2)))
    await until(lambda: provider.inside)
    async with asyncio.timeout(5):
        await processor.charge("m2", body_of(OTHER_ID))
    assert state_and_reason(other) == (State.SUCCEEDED, "")
    assert state_and_reason(slow) == (State.STARTED, "")
    provider.may_answer.set()
    await waiting
    assert state_and_reason(slow) == (State.SUCCEEDED, "")


async def test_nothing_is_kept_of_a_booking_that_nobody_handles() -> None:
    world = World()
    processor = processor_with(world, FakeProvider(world))
    await asyncio.gather(*(processor.charge(f"m{n}", body(2)) for n in range(3)))
    assert processor._in_hand == {}


async def test_a_provider_that_does_not_answer_in_time_is_looked_up_and_not_taken_for_a_decline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("payment.attempt.PROVIDER_DEADLINE_S", 0.01)

    class ChargesAndHangs(FakeProvider):
        async def charge(self, **charge: object) -> Charge:
            await super().charge(**charge)  # type: ignore[arg-type]
            await asyncio.Event().wait()
            raise AssertionError

    world = World()
    async with asyncio.timeout(5):
        with pytest.raises(Outage, match="did not answer within"):
            await processor_with(world, ChargesAndHangs(world)).charge("m1", body(2))
    assert state_and_reason(world) == (State.STARTED, "")
    assert world.extended == 1, "the tickets are held until the next attempt"
    await processor_with(world, FakeProvider(world)).charge("m1", body(2))
    assert state_and_reason(world) == (State.SUCCEEDED, "")
    assert (world.charges_asked_for, world.released) == (1, [])
