"""The worker process against real PostgreSQL and RabbitMQ."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pika
import pytest

from payment.mock_bank import DECLINED_REASON
from payment.models import State
from payment.worker import WRONG_SETTINGS_EXIT_CODE
from tests.integration.payment.broker import Broker, Events, booking_created
from tests.integration.payment.database import Database
from tests.integration.payment.fake_booking import FakeBooking
from tests.integration.payment.worker_process import WorkerProcess, eventually
from ticketra import messages
from ticketra.errors import Conflict, NotFound

BLOCKING_LOCK = 4711


def reaches(database: Database, booking_id: UUID, state: State) -> None:
    eventually(lambda: database.state(booking_id) == state, f"payment {state}")


def test_a_paid_booking_is_confirmed(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking
) -> None:
    booking_id = broker.publish_booking(ticket_count=5, message_id="paid-1")
    reaches(database, booking_id, State.SUCCEEDED)
    assert database.charge(booking_id) == "paid"
    assert database.is_received("paid-1")
    assert booking.confirmed == {booking_id: 1}
    assert booking.cancelled == {}


def test_a_declined_booking_is_cancelled(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking
) -> None:
    booking_id = broker.publish_booking(ticket_count=6)
    reaches(database, booking_id, State.FAILED)
    assert database.charge(booking_id) == "declined"
    assert database.reason(booking_id) == DECLINED_REASON
    assert booking.cancelled == {booking_id: [DECLINED_REASON]}
    assert booking.confirmed == {}


@pytest.mark.parametrize(
    "refusal",
    [
        Conflict("tickets_gone", "The tickets were sold meanwhile."),
        Conflict("booking_cancelled", "The booking was cancelled."),
        NotFound("booking_not_found", "There is no such booking."),
    ],
)
def test_the_money_goes_back_when_the_booking_is_gone(
    worker: WorkerProcess,
    broker: Broker,
    database: Database,
    booking: FakeBooking,
    refusal: Conflict | NotFound,
) -> None:
    booking_id = uuid4()
    booking.refusals[booking_id] = refusal
    broker.publish_booking(2, booking_id)
    reaches(database, booking_id, State.REFUNDED)
    assert database.charge(booking_id) == "refunded"
    assert database.reason(booking_id) == refusal.detail


def test_a_duplicate_has_no_second_effect(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking
) -> None:
    booking_id = broker.publish_booking(2, message_id="twice")
    reaches(database, booking_id, State.SUCCEEDED)
    for message_id in ("twice", "another-message-about-the-same"):
        broker.publish_booking(2, booking_id, message_id)
    behind = broker.publish_booking(2)
    reaches(database, behind, State.SUCCEEDED)
    eventually(lambda: database.is_received("another-message-about-the-same"), "both received")
    worker.tell_to_stop()
    assert worker.wait() == 0
    assert booking.confirmed == {booking_id: 1, behind: 1}


def test_one_worker_handles_duplicates_one_after_the_other(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking
) -> None:
    booking_id = uuid4()
    booking.may_answer.clear()
    for number in range(4):
        broker.publish_booking(2, booking_id, f"{booking_id}-{number}")
    eventually(lambda: booking.confirmed[booking_id], "the call to booking")
    behind = broker.publish_booking(6)
    reaches(database, behind, State.FAILED)
    assert len(database.attempts(booking_id)) == 1, "the others wait for their turn"
    booking.may_answer.set()
    eventually(lambda: len(database.attempts(booking_id)) == 4, "all four")
    reaches(database, booking_id, State.SUCCEEDED)
    assert booking.confirmed[booking_id] == 1
    assert database.told(booking_id) == [messages.PAYMENT_SUCCEEDED]


def test_duplicates_handled_by_two_workers_at_once_end_in_one_payment(
    worker: WorkerProcess,
    another_worker: WorkerProcess,
    broker: Broker,
    database: Database,
    booking: FakeBooking,
) -> None:
    booking_id = uuid4()
    booking.may_answer.clear()
    for number in range(4):
        broker.publish_booking(2, booking_id, f"{booking_id}-{number}")
    eventually(lambda: booking.confirmed[booking_id] > 1, "two deliveries at once")
    booking.may_answer.set()
    eventually(lambda: len(database.attempts(booking_id)) == 4, "all four")
    reaches(database, booking_id, State.SUCCEEDED)
    assert booking.confirmed[booking_id] == 2
    assert database.told(booking_id) == [messages.PAYMENT_SUCCEEDED]


def test_a_worker_killed_between_charge_and_its_own_commit_charges_once(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking
) -> None:
    with _updates_of_payments_blocked(database):
        booking_id = broker.publish_booking(2)
        eventually(lambda: database.charge(booking_id) == "paid", "the charge")
        worker.kill()
        assert database.state(booking_id) == State.STARTED
    charged_at = _charged_at(database, booking_id)
    worker.start()
    reaches(database, booking_id, State.SUCCEEDED)
    assert _charged_at(database, booking_id) == charged_at
    assert booking.confirmed == {booking_id: 1}


def test_a_worker_killed_between_charge_and_confirmation_charges_once(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking
) -> None:
    booking.may_answer.clear()
    booking_id = broker.publish_booking(2)
    eventually(lambda: booking.confirmed[booking_id], "the call to booking")
    worker.kill()
    assert database.state(booking_id) == State.PAID
    charged_at = _charged_at(database, booking_id)
    booking.may_answer.set()
    worker.start()
    reaches(database, booking_id, State.SUCCEEDED)
    assert _charged_at(database, booking_id) == charged_at
    assert booking.confirmed == {booking_id: 2}


def test_a_message_waits_longer_and_longer_while_booking_is_away(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking
) -> None:
    booking.stop()
    booking_id = broker.publish_booking(2, message_id="patient")
    second_delay = messages.retry_queue(messages.CHARGE_QUEUE, messages.RETRY_DELAYS_S[1])
    eventually(lambda: broker.ready(second_delay), "the second attempt to fail")
    found = broker.take(second_delay, put_back=True)
    assert found is not None
    properties, _ = found
    assert properties.message_id == "patient"
    assert properties.delivery_mode == messages.PERSISTENT
    assert properties.headers[messages.ATTEMPT_HEADER] == 2
    assert "booking is away" in properties.headers[messages.REASON_HEADER]
    assert properties.headers["cloudEvents:specversion"] == messages.SPEC_VERSION
    assert database.state(booking_id) == State.PAID
    booking.start()
    reaches(database, booking_id, State.SUCCEEDED)
    assert booking.confirmed == {booking_id: 1}


def test_a_message_is_not_lost_when_its_retry_queue_is_missing(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking
) -> None:
    broker.publish(b"poison", pika.BasicProperties(message_id="poison"))
    eventually(lambda: broker.take(messages.DEAD_LETTER_QUEUE), "the topology to be made")
    first_delay = messages.retry_queue(messages.CHARGE_QUEUE, messages.RETRY_DELAYS_S[0])
    broker.delete(first_delay)
    booking.stop()
    booking_id = broker.publish_booking(2)
    eventually(lambda: worker.times_consuming, "the topology to be made again")
    booking.start()
    reaches(database, booking_id, State.SUCCEEDED)


def test_payments_go_on_after_postgresql_was_away(
    worker: WorkerProcess,
    broker: Broker,
    database: Database,
    booking: FakeBooking,
    events: Events,
) -> None:
    booking.may_answer.clear()
    in_flight = broker.publish_booking(2)
    eventually(lambda: booking.confirmed[in_flight], "the call to booking")
    database.server.stop()
    try:
        booking.may_answer.set()
        later = broker.publish_booking(6)
        first_delay = messages.retry_queue(messages.CHARGE_QUEUE, messages.RETRY_DELAYS_S[0])
        eventually(lambda: broker.ready(first_delay) == 2, "both first attempts to fail")
    finally:
        database.server.start()
    reaches(database, in_flight, State.SUCCEEDED)
    reaches(database, later, State.FAILED)
    assert (database.asked(in_flight), database.asked(later)) == (1, 1)
    eventually(lambda: not database.unpublished(), "all to be published")
    assert events.of(in_flight) == [messages.PAYMENT_SUCCEEDED]
    assert events.of(later) == [messages.PAYMENT_FAILED]


def test_poison_goes_to_the_dead_letter_queue_and_blocks_nothing(
    worker: WorkerProcess, broker: Broker, database: Database
) -> None:
    poison = {
        "not-json": (b"}{", pika.BasicProperties(message_id="not-json")),
        "no-fields": (b"{}", pika.BasicProperties(message_id="no-fields")),
        None: (b"{}", pika.BasicProperties(headers={"odd": {"nested": [1, None]}})),
    }
    for body, properties in poison.values():
        broker.publish(body, properties)
    booking_id = broker.publish_booking(2)
    reaches(database, booking_id, State.SUCCEEDED)
    dead = messages.DEAD_LETTER_QUEUE
    eventually(lambda: broker.ready(dead) == len(poison), "the dead letters")
    taken = [found for _ in poison if (found := broker.take(dead))]
    assert {properties.message_id: body for properties, body in taken} == {
        message_id: body for message_id, (body, _) in poison.items()
    }
    for properties, _ in taken:
        assert properties.headers[messages.ATTEMPT_HEADER] == 1
        assert "cannot be parsed" in properties.headers[messages.REASON_HEADER]


def test_a_hundred_poison_messages_delay_nothing_behind_them(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking
) -> None:
    good = [uuid4() for _ in range(200)]
    messages_in_order = []
    for number, booking_id in enumerate(good):
        messages_in_order.append(booking_created(2, booking_id))
        if number % 2:
            properties = pika.BasicProperties(message_id=f"poison-{number}")
            messages_in_order.append((messages.BOOKING_CREATED, b"{}", properties))
    broker.publish_all(messages_in_order)
    eventually(lambda: database.states(good) == {"succeeded": 200}, "all good ones to succeed")
    eventually(lambda: broker.ready(messages.DEAD_LETTER_QUEUE) == 100, "the dead letters")
    dead = broker.take_all(messages.DEAD_LETTER_QUEUE)
    assert {properties.message_id for properties, _ in dead} == {
        f"poison-{number}" for number in range(1, 200, 2)
    }
    headers = [properties.headers for properties, _ in dead]
    assert {header[messages.ATTEMPT_HEADER] for header in headers} == {1}
    assert {header[messages.QUEUE_HEADER] for header in headers} == {messages.CHARGE_QUEUE}
    assert all("cannot be parsed" in header[messages.REASON_HEADER] for header in headers)
    assert len({UUID(header[messages.DEAD_LETTER_ID_HEADER]) for header in headers}) == 100
    assert all(len(database.attempts(booking_id)) == 1 for booking_id in good[::20])
    assert sum(booking.confirmed.values()) == 200


def test_the_world_is_told_of_each_end_once(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking, events: Events
) -> None:
    gone = uuid4()
    booking.refusals[gone] = Conflict("tickets_gone", "The tickets were sold meanwhile.")
    paid, declined = broker.publish_booking(2), broker.publish_booking(6)
    broker.publish_booking(2, gone)
    ended = {"succeeded": 1, "failed": 1, "refunded": 1}
    eventually(lambda: database.states([paid, declined, gone]) == ended, "all to end")
    worker.tell_to_stop()
    assert worker.wait() == 0
    assert database.unpublished() == 0, "it publishes what is left before it stops"
    assert events.of(paid) == [messages.PAYMENT_SUCCEEDED]
    assert events.of(declined) == [messages.PAYMENT_FAILED]
    assert events.of(gone) == [messages.PAYMENT_REFUNDED]


def test_the_worker_reconnects_after_the_broker_restarts(
    worker: WorkerProcess,
    broker: Broker,
    database: Database,
    booking: FakeBooking,
    events: Events,
) -> None:
    booking.may_answer.clear()
    in_flight = broker.publish_booking(2)
    eventually(lambda: booking.confirmed[in_flight], "the call to booking")
    broker.server.stop()
    try:
        booking.may_answer.set()
        reaches(database, in_flight, State.SUCCEEDED)
        eventually(lambda: "no connection to RabbitMQ" in worker.log, "the loss to be seen")
    finally:
        broker.server.start()
    later = broker.publish_booking(2)
    reaches(database, later, State.SUCCEEDED)
    assert worker.is_running
    eventually(lambda: not database.unpublished(), "all to be published")
    eventually(lambda: len(database.attempts(in_flight)) == 2, "the message to come again")
    assert booking.confirmed == {in_flight: 1, later: 1}
    assert events.of(in_flight) == [messages.PAYMENT_SUCCEEDED]
    assert events.of(later) == [messages.PAYMENT_SUCCEEDED]


def test_the_worker_consumes_again_after_its_queue_was_deleted(
    worker: WorkerProcess, broker: Broker, database: Database
) -> None:
    broker.delete(messages.CHARGE_QUEUE)
    eventually(lambda: worker.times_consuming, "a second consumer")
    booking_id = broker.publish_booking(2)
    reaches(database, booking_id, State.SUCCEEDED)


def test_a_worker_told_to_stop_finishes_what_is_in_flight_and_takes_no_more(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking, events: Events
) -> None:
    booking.may_answer.clear()
    in_flight = [broker.publish_booking(2) for _ in range(3)]
    eventually(lambda: database.states(in_flight) == {"paid": 3}, "all but the calls to booking")
    eventually(lambda: booking.confirmed, "the first of the calls")
    worker.tell_to_stop()
    eventually(lambda: '"stopping"' in worker.log, "the drain to begin")
    late = broker.publish_booking(2)
    booking.may_answer.set()
    assert worker.wait() == 0
    assert database.states([*in_flight, late]) == {"succeeded": 3}
    assert broker.ready(messages.CHARGE_QUEUE) == 1, "only the late one was not acknowledged"
    assert [events.of(booking_id) for booking_id in in_flight] == [[messages.PAYMENT_SUCCEEDED]] * 3
    worker.start()
    reaches(database, late, State.SUCCEEDED)
    assert booking.confirmed == dict.fromkeys([*in_flight, late], 1)


def test_a_worker_that_is_well_logs_nothing_for_each_payment(
    worker: WorkerProcess, broker: Broker, database: Database
) -> None:
    worker.tell_to_stop()
    assert worker.wait() == 0
    booking_ids = [uuid4() for _ in range(30)]
    broker.publish_all([booking_created(2, booking_id) for booking_id in booking_ids])
    worker.forget_log()
    worker.start()
    eventually(lambda: database.states(booking_ids) == {"succeeded": 30}, "all to succeed")
    worker.tell_to_stop()
    assert worker.wait() == 0
    lines = [json.loads(line) for line in worker.log.splitlines()]
    assert [line for line in lines if line["level"] != "INFO"] == []
    assert len(lines) < 20


def test_the_health_command_tells_a_consuming_worker_from_one_that_never_did(
    worker: WorkerProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def exit_code(directory: object) -> int:
        environment = worker.environment | {"TMPDIR": str(directory)}
        command = [sys.executable, "-m", "ticketra.heartbeat"]
        return subprocess.run(command, env=environment, check=False).returncode

    assert exit_code(worker.directory) == 0
    assert exit_code(tmp_path_factory.mktemp("another")) == 1


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    incomplete = WorkerProcess({"POSTGRES_URL": "postgresql://127.0.0.1:1/orders"}, tmp_path)
    ended = subprocess.run(
        incomplete.command,
        env=incomplete.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == WRONG_SETTINGS_EXIT_CODE
    assert "BOOKING_ENDPOINT" in ended.stdout
    assert "POSTGRES_URL" not in ended.stdout


@contextmanager
def _updates_of_payments_blocked(database: Database) -> Iterator[None]:
    """Stop every payment right before it would store what the provider said."""
    with database.admin() as connection:
        connection.execute(
            f"""
            CREATE FUNCTION payment.wait_for_test() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM pg_advisory_xact_lock_shared({BLOCKING_LOCK});
                RETURN NEW;
            END $$;
            CREATE TRIGGER wait_for_test BEFORE UPDATE ON payment.payments
            FOR EACH ROW EXECUTE FUNCTION payment.wait_for_test();
            """
        )
        connection.execute("SELECT pg_advisory_lock(%s)", [BLOCKING_LOCK])
        try:
            yield
        finally:
            connection.execute("SELECT pg_advisory_unlock(%s)", [BLOCKING_LOCK])
            connection.execute("DROP FUNCTION payment.wait_for_test() CASCADE")


def _charged_at(database: Database, booking_id: UUID) -> object:
    with database.admin() as connection:
        row = connection.execute(
            "SELECT charged_at FROM payment.mock_bank_charges WHERE booking_id = %s", [booking_id]
        ).fetchone()
    assert row is not None
    return row[0]
