"""A worker that has a message in hand for too long."""

import sys
from pathlib import Path

from payment.models import State
from tests.integration.payment.broker import Broker
from tests.integration.payment.database import Database
from tests.integration.payment.fake_booking import FakeBooking
from tests.integration.payment.worker_process import WorkerProcess, eventually
from ticketra.heartbeat import heartbeat_file


class ImpatientWorker(WorkerProcess):
    """Takes a message for stuck after a short time."""

    @property
    def command(self) -> list[str]:
        program = (
            "from payment import consumer, worker;"
            "consumer.HANDLING_LIMIT_S = 1;"
            "raise SystemExit(worker.main())"
        )
        return [sys.executable, "-c", program]


def test_a_worker_whose_message_does_not_end_is_stuck_until_it_does(
    worker: WorkerProcess, broker: Broker, database: Database, booking: FakeBooking, tmp_path: Path
) -> None:
    worker.tell_to_stop()
    assert worker.wait() == 0
    impatient = ImpatientWorker(worker.settings, tmp_path)
    impatient.start()
    try:
        booking.may_answer.clear()
        booking_id = broker.publish_booking(2)
        eventually(lambda: "the task is stuck" in impatient.log, "it to be seen")
        beat = tmp_path / heartbeat_file().name
        beaten_at = beat.stat().st_mtime
        booking.may_answer.set()
        eventually(lambda: database.state(booking_id) == State.SUCCEEDED, "the payment")
        eventually(lambda: beat.stat().st_mtime > beaten_at, "another beat")
        impatient.tell_to_stop()
        assert impatient.wait() == 0
    finally:
        impatient.kill()
