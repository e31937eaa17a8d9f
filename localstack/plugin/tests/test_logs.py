from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from local_cloud import wait_until
from localstack.runtime import events

from process_cloud import logs
from process_cloud.logs import LogShipper, LogTarget


class FakeLogs:
    """CloudWatch Logs that keeps what it is sent; fails as often as told."""

    class exceptions:  # noqa: N801 - boto3's spelling
        class ResourceNotFoundException(ClientError):  # noqa: N818
            pass

        class ResourceAlreadyExistsException(ClientError):  # noqa: N818
            pass

    def __init__(self, *, exists: bool = True, failures: int = 0) -> None:
        self.exists = exists
        self.failures = failures
        self.batches: list[list[dict[str, Any]]] = []

    def create_log_group(self, logGroupName: str) -> None:  # noqa: N803
        raise self.exceptions.ResourceAlreadyExistsException({"Error": {}}, "CreateLogGroup")

    def create_log_stream(self, logGroupName: str, logStreamName: str) -> None:  # noqa: N803
        self.exists = True

    def put_log_events(
        self,
        logGroupName: str,  # noqa: N803
        logStreamName: str,  # noqa: N803
        logEvents: list[dict[str, Any]],  # noqa: N803
    ) -> None:
        if not self.exists:
            raise self.exceptions.ResourceNotFoundException({"Error": {}}, "PutLogEvents")
        if self.failures:
            self.failures -= 1
            raise ClientError({"Error": {"Code": "ServiceUnavailable"}}, "PutLogEvents")
        self.batches.append(logEvents)

    @property
    def messages(self) -> list[str]:
        return [event["message"] for batch in self.batches for event in batch]


TARGET = LogTarget("000000000000", "us-east-1", "group", "stream")


@pytest.fixture
def use(monkeypatch) -> Callable[[FakeLogs], FakeLogs]:
    def install(fake: FakeLogs) -> FakeLogs:
        monkeypatch.setattr(LogTarget, "client", lambda _self: fake)
        return fake

    return install


def test_lines_are_sent_in_order_by_the_shipper(use) -> None:
    fake = use(FakeLogs())
    stream = LogShipper().stream(TARGET)
    for number in range(100):
        stream.write([f"line {number}", ""])
    wait_until(lambda: len(fake.messages) == 100, 5)
    assert fake.messages == [f"line {number}" for number in range(100)]
    assert len(fake.batches) < 10


def test_closing_sends_what_is_left_at_once(use) -> None:
    fake = use(FakeLogs())
    stream = LogShipper().stream(TARGET)
    stream.write(["last words"])
    stream.close()
    assert fake.messages == ["last words"]


def test_nothing_is_sent_while_localstack_stops(use) -> None:
    fake = use(FakeLogs())
    stream = LogShipper().stream(TARGET)
    stream.write(["a"])
    events.infra_stopping.set()
    try:
        stream.close()
    finally:
        events.infra_stopping.clear()
    assert fake.messages == []


def test_a_missing_stream_is_created(use) -> None:
    fake = use(FakeLogs(exists=False))
    stream = LogShipper().stream(TARGET)
    stream.write(["a"])
    stream.close()
    assert fake.messages == ["a"]


def test_a_failed_send_is_repeated(use) -> None:
    fake = use(FakeLogs(failures=2))
    stream = LogShipper().stream(TARGET)
    stream.write(["a"])
    stream.close()
    assert fake.messages == ["a"]


def test_what_could_not_be_sent_is_counted_in_the_log(use, monkeypatch) -> None:
    fake = use(FakeLogs(failures=logs.SEND_ATTEMPTS_LIMIT))
    stream = LogShipper().stream(TARGET)
    stream.write(["a", "b"])
    stream.flush()
    stream.write(["c"])
    stream.close()
    assert fake.messages == ["[2 lines dropped: CloudWatch Logs did not keep up]", "c"]


def test_batches_keep_the_limits_of_the_api(use) -> None:
    fake = use(FakeLogs())
    stream = LogShipper().stream(TARGET)
    stream.write(["x" * 100_000] * 40)
    stream.write(["y"] * 15_000)
    stream.close()
    assert len(fake.messages) == 15_040
    for batch in fake.batches:
        assert len(batch) <= logs.BATCH_EVENTS_LIMIT
        size = sum(len(event["message"]) + logs.EVENT_OVERHEAD_BYTES for event in batch)
        assert size <= logs.BATCH_BYTES_LIMIT


def test_a_writer_far_ahead_is_held_up(use, monkeypatch) -> None:
    monkeypatch.setattr(logs, "STREAM_BACKLOG_LIMIT_BYTES", 1000)
    fake = use(FakeLogs())
    stream = LogShipper().stream(TARGET)
    for number in range(4):
        stream.write([f"{number} " + "x" * 1000])
    stream.close()
    assert [message.split()[0] for message in fake.messages] == list("0123")
