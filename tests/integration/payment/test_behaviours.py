"""A bank that misbehaves, on a real database, and what the worker's own code makes of it."""

import asyncio
import math
from random import Random
from uuid import UUID, uuid4

import pytest

from payment.mock_bank import BEHAVIOUR_TTL_S, MockBank
from payment.models import Outage, State
from payment.processor import PaymentProcessor
from payment.provider import PROVIDER_DEADLINE_S, Charge, ChargeStatus
from payment.store import PaymentStore
from tests.integration.payment.broker import Broker, booking_created
from tests.integration.payment.database import Database
from tests.integration.payment.test_mock_bank import PAID, charge
from tests.integration.payment.test_worker import reaches
from tests.integration.payment.worker_process import WorkerProcess, eventually
from tests.unit.payment.test_processor import FakeBookings, World
from ticketra import database as orders_database
from ticketra import messages
from ticketra.ids import IdSource

PENDING = Charge(ChargeStatus.PENDING)
LATER_MS = 3_600_000
MANY = 20


class Bank(MockBank):
    """Sleeps no longer than it must, and keeps for how long it was to sleep."""

    def __init__(self, database: orders_database.Database) -> None:
        self.slept: list[float] = []
        self.now = 0.0
        super().__init__(database, Random(1), monotonic=lambda: self.now, sleep=self._pass)

    async def _pass(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def bank(orders: orders_database.Database) -> Bank:
    return Bank(orders)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def processor(orders: orders_database.Database, bank: Bank, world: World) -> PaymentProcessor:
    """The worker's own code with a fake booking service."""
    store = PaymentStore(orders, IdSource(), lambda: None)
    return PaymentProcessor(store, bank, FakeBookings(world))


async def test_a_slow_bank_takes_its_time(bank: Bank, database: Database) -> None:
    with database.bank_behaves(slow=1_500):
        assert await charge(bank, uuid4(), 2) == PAID
    assert sum(bank.slept) == 1.5


async def test_a_bank_that_times_out_has_charged_all_the_same(
    bank: Bank, database: Database
) -> None:
    booking_id = uuid4()
    with database.bank_behaves(time_out=100), pytest.raises(Outage):
        await charge(bank, booking_id, 2)
    assert max(bank.slept) > PROVIDER_DEADLINE_S
    assert await bank.look_up(booking_id) == PAID


async def test_a_bank_that_fails_may_or_may_not_have_charged(
    bank: Bank, database: Database
) -> None:
    booking_ids = [uuid4() for _ in range(MANY)]
    with database.bank_behaves(fail=100):
        for booking_id in booking_ids:
            with pytest.raises(Outage, match="failed"):
                await charge(bank, booking_id, 2)
    found = [await bank.look_up(booking_id) for booking_id in booking_ids]
    assert PAID in found
    assert None in found


async def test_a_bank_that_is_asked_twice_charges_once(bank: Bank, database: Database) -> None:
    booking_id = uuid4()
    with database.bank_behaves(twice=100):
        assert await charge(bank, booking_id, 2) == PAID
    assert database.asked(booking_id) == 2
    assert database.charge(booking_id) == "paid"


async def test_a_late_bank_has_not_decided_until_its_time_has_come(
    bank: Bank, database: Database
) -> None:
    booking_id = uuid4()
    with database.bank_behaves(late=LATER_MS):
        assert await charge(bank, booking_id, 6) == PENDING
        assert await charge(bank, booking_id, 6) == PENDING
        assert await bank.look_up(booking_id) == PENDING
    let_it_decide(database, booking_id)
    answer = await bank.look_up(booking_id)
    assert answer is not None
    assert answer.status is ChargeStatus.DECLINED


async def test_only_so_many_of_a_hundred_are_hit(bank: Bank, database: Database) -> None:
    booking_ids = [uuid4() for _ in range(MANY)]
    with database.bank_behaves(twice=50):
        await asyncio.gather(*(charge(bank, booking_id, 2) for booking_id in booking_ids))
    assert {database.asked(booking_id) for booking_id in booking_ids} == {1, 2}


async def test_the_bank_does_what_it_was_told_last_and_looks_that_up_now_and_then(
    bank: Bank, database: Database
) -> None:
    await charge(bank, uuid4(), 2)
    with database.bank_behaves(slow=100):
        await charge(bank, uuid4(), 2)
        assert bank.slept == []
        bank.now = BEHAVIOUR_TTL_S
        await charge(bank, uuid4(), 2)
        assert bank.slept == [0.1]
    bank.now = math.inf
    await charge(bank, uuid4(), 2)
    assert bank.slept == [0.1]


async def test_a_charge_that_timed_out_is_looked_up_and_not_taken_for_a_decline(
    processor: PaymentProcessor, database: Database, world: World
) -> None:
    booking_id = uuid4()
    _, body, _ = booking_created(2, booking_id)
    with database.bank_behaves(time_out=100), pytest.raises(Outage):
        await processor.charge("m1", body)
    assert database.state(booking_id) is State.STARTED
    assert (world.extended, world.confirmed, world.released) == (1, 0, [])
    await processor.charge("m1", body)
    assert database.state(booking_id) is State.SUCCEEDED
    assert database.asked(booking_id) == 1
    assert (world.confirmed, world.released) == (1, [])


async def test_a_charge_that_is_not_decided_is_looked_up_again_and_not_asked_for_again(
    processor: PaymentProcessor, database: Database, world: World
) -> None:
    booking_id = uuid4()
    _, body, _ = booking_created(2, booking_id)
    with database.bank_behaves(late=LATER_MS):
        for _ in range(2):
            with pytest.raises(Outage, match="not decided"):
                await processor.charge("m1", body)
    assert database.state(booking_id) is State.STARTED
    assert (world.extended, world.confirmed, world.released) == (2, 0, [])
    let_it_decide(database, booking_id)
    await processor.charge("m1", body)
    assert database.state(booking_id) is State.SUCCEEDED
    assert database.asked(booking_id) == 1
    assert database.attempts(booking_id) == [
        ("started", "started", "the provider has not decided yet"),
        ("started", "started", "the provider has not decided yet"),
        ("started", "succeeded", None),
    ]


async def test_money_that_comes_after_the_booking_ended_goes_back(
    processor: PaymentProcessor, database: Database, world: World
) -> None:
    booking_id = uuid4()
    _, body, _ = booking_created(2, booking_id)
    with database.bank_behaves(late=LATER_MS), pytest.raises(Outage):
        await processor.charge("m1", body)
    world.gone = "The booking expired before it was paid."
    let_it_decide(database, booking_id)
    await processor.charge("m1", body)
    assert database.state(booking_id) is State.REFUNDED
    assert database.charge(booking_id) == "refunded"
    assert database.told(booking_id) == [messages.PAYMENT_REFUNDED]


async def test_whatever_the_bank_does_each_booking_is_charged_once_and_comes_to_an_end(
    processor: PaymentProcessor, database: Database, bank: Bank
) -> None:
    booking_ids = [uuid4() for _ in range(MANY)]
    bodies = {one: booking_created(2 + 4 * (n % 2), one)[1] for n, one in enumerate(booking_ids)}

    async def deliver(booking_id: UUID) -> None:
        try:
            await processor.charge(f"m-{booking_id}", bodies[booking_id])
        except Outage:
            await processor.charge(f"m-{booking_id}", bodies[booking_id])

    with database.bank_behaves(time_out=30, twice=30):
        await asyncio.gather(*(deliver(booking_id) for booking_id in booking_ids))
    assert database.states(booking_ids) == {"succeeded": MANY // 2, "failed": MANY // 2}
    told = [database.told(booking_id) for booking_id in booking_ids]
    assert told == [[messages.PAYMENT_SUCCEEDED], [messages.PAYMENT_FAILED]] * (MANY // 2)


def test_a_worker_asks_a_late_bank_again_after_a_while(
    worker: WorkerProcess, broker: Broker, database: Database
) -> None:
    with database.bank_behaves(late=500):
        booking_id = broker.publish_booking(2)
        reaches(database, booking_id, State.SUCCEEDED)
    assert [attempt[:2] for attempt in database.attempts(booking_id)] == [
        ("started", "started"),
        ("started", "succeeded"),
    ]
    assert database.asked(booking_id) == 1


def test_a_worker_has_many_payments_in_flight_at_a_slow_bank(
    worker: WorkerProcess, broker: Broker, database: Database
) -> None:
    booking_ids = [uuid4() for _ in range(MANY)]
    with database.bank_behaves(slow=1_500):
        broker.publish_all([booking_created(2, booking_id) for booking_id in booking_ids])
        eventually(lambda: database.open_attempts(booking_ids) == MANY, "all to be in flight")
        eventually(lambda: database.states(booking_ids) == {"succeeded": MANY}, "all to succeed")


def let_it_decide(database: Database, booking_id: UUID) -> None:
    with database.admin() as connection:
        connection.execute(
            "UPDATE payment.mock_bank_charges SET answered_at = now() WHERE booking_id = %s",
            [booking_id],
        )
