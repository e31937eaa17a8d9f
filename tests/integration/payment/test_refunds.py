"""The worker process and bookings that were confirmed and are cancelled."""

from uuid import UUID, uuid4

import pytest

from payment.logic import FAULT_LIMIT
from payment.models import State
from tests.integration.payment.broker import CANCEL_REASON, Broker, Events
from tests.integration.payment.database import Database
from tests.integration.payment.fake_booking import FakeBooking
from tests.integration.payment.test_worker import reaches
from tests.integration.payment.worker_process import WorkerProcess, eventually
from ticketra import messages
from ticketra.errors import Conflict


@pytest.fixture
def confirmed(worker: WorkerProcess, broker: Broker, database: Database) -> UUID:
    """A booking that was paid and confirmed."""
    booking_id = broker.publish_booking(2)
    reaches(database, booking_id, State.SUCCEEDED)
    return booking_id


def test_the_money_of_a_cancelled_booking_goes_back_once(
    broker: Broker, database: Database, booking: FakeBooking, events: Events, confirmed: UUID
) -> None:
    broker.publish_cancellation(confirmed, message_id="cancelled-once")
    reaches(database, confirmed, State.REFUNDED)
    assert database.charge(confirmed) == "refunded"
    assert database.reason(confirmed) == CANCEL_REASON
    assert database.is_received("cancelled-once")
    assert booking.refunded == {confirmed: 1}
    for message_id in ("cancelled-once", "cancelled-again"):
        broker.publish_cancellation(confirmed, message_id=message_id)
    eventually(lambda: len(database.attempts(confirmed)) == 4, "both to be handled")
    eventually(lambda: database.attempts(confirmed)[-1][1] == State.REFUNDED, "the last to end")
    eventually(lambda: not database.unpublished(), "all to be published")
    assert booking.refunded == {confirmed: 1}
    told = [messages.PAYMENT_SUCCEEDED, messages.PAYMENT_REFUNDED]
    assert events.of(confirmed) == told[-len(events.of(confirmed)) :]
    assert database.told(confirmed) == told


def test_a_refund_waits_while_booking_is_away(
    broker: Broker, database: Database, booking: FakeBooking, confirmed: UUID
) -> None:
    booking.stop()
    broker.publish_cancellation(confirmed)
    first_delay = messages.retry_queue(messages.REFUND_QUEUE, messages.RETRY_DELAYS_S[0])
    eventually(lambda: broker.ready(first_delay), "the first attempt to fail")
    assert database.state(confirmed) is State.REFUNDING
    assert database.charge(confirmed) == "refunded"
    booking.start()
    reaches(database, confirmed, State.REFUNDED)
    assert booking.refunded == {confirmed: 1}


def test_a_booking_cancelled_before_its_confirmation_was_noted_is_refunded_once(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking
) -> None:
    booking.may_answer.clear()
    booking_id = broker.publish_booking(2)
    eventually(lambda: booking.confirmed[booking_id], "the call to booking")
    worker.kill()
    assert database.state(booking_id) is State.PAID
    booking.refusals[booking_id] = Conflict("booking_cancelled", "The booking was cancelled.")
    booking.may_answer.set()
    broker.publish_cancellation(booking_id, message_id=f"cancelled-{booking_id}")
    worker.start()
    reaches(database, booking_id, State.REFUNDED)
    eventually(lambda: database.is_received(f"cancelled-{booking_id}"), "the cancellation")
    assert database.charge(booking_id) == "refunded"
    assert database.told(booking_id) == [messages.PAYMENT_REFUNDED]


@pytest.mark.parametrize("payment_status", ["pending", "declined"])
def test_a_cancellation_of_what_was_not_paid_leaves_the_money_where_it_is(
    broker: Broker, database: Database, booking: FakeBooking, confirmed: UUID, payment_status: str
) -> None:
    broker.publish_cancellation(confirmed, payment_status)
    broker.publish_cancellation(marker := uuid4(), message_id=f"behind-{marker}")
    eventually(lambda: database.is_received(f"behind-{marker}"), "the message behind it")
    assert database.state(confirmed) is State.SUCCEEDED
    assert booking.refunded == {}
    first_delay = messages.retry_queue(messages.REFUND_QUEUE, messages.RETRY_DELAYS_S[0])
    eventually(lambda: broker.take(first_delay), "the message behind it to be retried")


def test_a_cancellation_without_a_payment_is_retried_and_then_set_aside(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking
) -> None:
    booking_id = uuid4()
    broker.publish_cancellation(booking_id, message_id="whose")
    first_delay = messages.retry_queue(messages.REFUND_QUEUE, messages.RETRY_DELAYS_S[0])
    eventually(lambda: broker.take(first_delay), "the first attempt to fail")
    failed = {messages.FAULTS_HEADER: FAULT_LIMIT - 1}
    broker.publish_cancellation(booking_id, message_id="whose", headers=failed)
    eventually(lambda: broker.ready(messages.DEAD_LETTER_QUEUE), "the dead letter")
    ((properties, _),) = broker.take_all(messages.DEAD_LETTER_QUEUE)
    assert properties.message_id == "whose"
    assert properties.headers[messages.FAULTS_HEADER] == FAULT_LIMIT
    assert properties.headers[messages.QUEUE_HEADER] == messages.REFUND_QUEUE
    assert "without a payment" in properties.headers[messages.REASON_HEADER]
    assert UUID(properties.headers[messages.DEAD_LETTER_ID_HEADER])
    assert database.state(booking_id) is None
    assert booking.refunded == {}
