"""The worker process and the hold of the booking that it takes the payment of."""

from uuid import uuid4

import pytest

from payment.models import State
from tests.integration.payment.broker import Broker
from tests.integration.payment.database import Database
from tests.integration.payment.fake_booking import FakeBooking
from tests.integration.payment.test_worker import reaches
from tests.integration.payment.worker_process import WorkerProcess, eventually
from ticketra import messages
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.errors import NotFound

# The provider's statements then run into their time-out, and those of the worker do not.
LOCK_CHARGES = "LOCK TABLE payment.mock_bank_charges IN ACCESS EXCLUSIVE MODE"


def test_a_payment_in_time_asks_booking_for_nothing_but_the_confirmation(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking
) -> None:
    booking_id = broker.publish_booking(2)
    reaches(database, booking_id, State.SUCCEEDED)
    assert (booking.confirmed, booking.extended) == ({booking_id: 1}, {})


@pytest.mark.parametrize("hold_left_s", [30, -30])
def test_a_short_hold_is_extended_before_the_payment(
    worker: WorkerProcess,
    broker: Broker,
    database: Database,
    booking: FakeBooking,
    hold_left_s: int,
) -> None:
    booking_id = broker.publish_booking(2, hold_left_s=hold_left_s)
    reaches(database, booking_id, State.SUCCEEDED)
    assert (booking.confirmed, booking.extended) == ({booking_id: 1}, {booking_id: 1})


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (pb.BOOKING_STATUS_EXPIRED, "The booking expired before it was paid."),
        (pb.BOOKING_STATUS_CANCELLED, "The booking was cancelled before it was paid."),
    ],
)
def test_a_booking_that_has_ended_is_not_charged(
    worker: WorkerProcess,
    broker: Broker,
    database: Database,
    booking: FakeBooking,
    *,
    status: pb.BookingStatus.ValueType,
    reason: str,
) -> None:
    booking_id = uuid4()
    booking.statuses[booking_id] = status
    broker.publish_booking(2, booking_id, hold_left_s=1)
    eventually(lambda: booking.cancelled[booking_id], "booking to be told")
    assert database.state(booking_id) == State.ABANDONED
    assert database.reason(booking_id) == reason
    assert database.charge(booking_id) is None
    assert booking.cancelled == {booking_id: [reason]}
    assert booking.confirmed == {}


def test_a_booking_that_is_not_there_is_not_charged(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking
) -> None:
    booking_id = uuid4()
    booking.refusals[booking_id] = NotFound("booking_not_found", "There is no such booking.")
    broker.publish_booking(2, booking_id, hold_left_s=1)
    reaches(database, booking_id, State.ABANDONED)
    assert database.charge(booking_id) is None


def test_a_confirmed_booking_is_paid_for(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking
) -> None:
    booking_id = uuid4()
    booking.statuses[booking_id] = pb.BOOKING_STATUS_CONFIRMED
    broker.publish_booking(2, booking_id, hold_left_s=1)
    reaches(database, booking_id, State.SUCCEEDED)


def test_a_provider_that_is_away_does_not_cost_the_buyer_the_hold(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking
) -> None:
    with database.admin() as connection, connection.transaction():
        connection.execute(LOCK_CHARGES)
        booking_id = broker.publish_booking(2)
        second_delay = messages.retry_queue(messages.CHARGE_QUEUE, messages.RETRY_DELAYS_S[1])
        eventually(lambda: broker.ready(second_delay), "two attempts to fail")
        assert booking.extended == {booking_id: 2}
        assert database.state(booking_id) == State.STARTED
    reaches(database, booking_id, State.SUCCEEDED)
    assert booking.confirmed == {booking_id: 1}


def test_the_provider_waits_while_booking_cannot_say_whether_the_tickets_are_held(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking
) -> None:
    booking.stop()
    booking_id = broker.publish_booking(2, hold_left_s=1)
    first_delay = messages.retry_queue(messages.CHARGE_QUEUE, messages.RETRY_DELAYS_S[0])
    eventually(lambda: broker.ready(first_delay), "the first attempt to fail")
    assert database.charge(booking_id) is None
    booking.start()
    reaches(database, booking_id, State.SUCCEEDED)
