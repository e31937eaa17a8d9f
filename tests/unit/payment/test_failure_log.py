"""A message that failed is found in the worker's log by the id of the request behind it."""

import json

import pika
import pytest

from payment.consumer import _Delivery, _log_failure
from payment.logic import DeadLetter, Failures, Retry
from payment.models import Outage, Unparseable
from tests.unit.common.logs import Logs
from ticketra.messages import CHARGE_QUEUE

PROPERTIES = pika.BasicProperties(message_id="message-1")
BODY = json.dumps({"booking_id": "1", "request_id": "find-me"}).encode()


@pytest.mark.parametrize(
    ("decision", "error", "level"),
    [
        (DeadLetter(Failures(1, 1), "unparseable"), Unparseable("booking_id"), "ERROR"),
        (Retry(1, Failures(1, 0), "away"), Outage("away"), "WARNING"),
        (Retry(1, Failures(1, 1), "a bug"), RuntimeError("a bug"), "WARNING"),
    ],
)
def test_a_failed_message_is_logged_with_its_request_id(
    monkeypatch: pytest.MonkeyPatch, decision: DeadLetter | Retry, error: Exception, level: str
) -> None:
    logs = Logs(monkeypatch)

    _log_failure(_Delivery(1, CHARGE_QUEUE, PROPERTIES, BODY), decision, error)

    (line,) = logs.lines(level)
    assert (line["request_id"], line["message_id"]) == ("find-me", "message-1")
