"""Wrong arguments of every kind, for every method: never INTERNAL, never UNKNOWN."""

import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.booking_task import BookingTask, Client, booking_tasks, call_as
from tests.integration.servers import Server
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.booking.v1 import booking_pb2_grpc as pb_grpc

INVALID = grpc.StatusCode.INVALID_ARGUMENT
MISSING = grpc.StatusCode.NOT_FOUND
HUGE = "x" * 60_000  # just below the message limit
SERVICE = "/ticketra.booking.v1.BookingService"
EVENT = "wrong-arguments"

CONTROL = ["\x00", "a\x00b", "a\nb", "\x7f"]
EVENT_IDS = ["", " ", "a b", "é", "\U0001f3ab", "\u202e", "x" * 65, HUGE, *CONTROL]
USER_IDS = ["", "x" * 129, HUGE, *CONTROL]
KEYS = ["a b", "é", "k" * 256, HUGE, *CONTROL]
COUNTS = [0, -1, 1_001, 2**31 - 1, -(2**31)]
VERSIONS = [0, -1, -(2**63)]
UNKNOWN_IDS = [
    "",
    "x",
    HUGE,
    "0" * 32,
    "{00000000-0000-0000-0000-000000000000}",
    "urn:uuid:00000000-0000-0000-0000-000000000000",
    "00000000-0000-0000-0000-00000000000\uff10",  # a full-width digit
    "00000000-0000-0000-0000-00000000000g",
    "' OR 1=1 --",
    str(uuid.UUID(int=0)),
    str(uuid.UUID(int=2**128 - 1)),
    *CONTROL,
]


class Case(NamedTuple):
    """A call and how it is to be refused."""

    method: str
    caller: str
    request: Any
    status: grpc.StatusCode


def create(status: grpc.StatusCode, **fields: Any) -> Case:
    good: dict[str, Any] = {"event_id": EVENT, "user_id": "ada", "ticket_count": 1}
    return Case("CreateBooking", "gateway", pb.CreateBookingRequest(**(good | fields)), status)


def put(event_id: str = EVENT, version: int = 2, **terms: Any) -> Case:
    request = pb.PutSaleRequest(
        event_id=event_id, version=version, terms=pb.SaleTerms(**({"capacity": 10} | terms))
    )
    return Case("PutSale", "event", request, INVALID)


def close(status: grpc.StatusCode, event_id: str = EVENT, version: int = 2) -> Case:
    request = pb.CloseSaleRequest(event_id=event_id, version=version)
    return Case("CloseSale", "event", request, status)


def read(status: grpc.StatusCode, **fields: Any) -> Case:
    good = {"user_id": "ada"}
    return Case("ListBookings", "gateway", pb.ListBookingsRequest(**(good | fields)), status)


def ask(*event_ids: str) -> Case:
    request = pb.GetAvailabilityRequest(event_ids=event_ids)
    return Case("GetAvailability", "event", request, INVALID)


def cancel(status: grpc.StatusCode, **fields: Any) -> Case:
    return Case("CancelBooking", "gateway", pb.CancelBookingRequest(**fields), status)


def creations() -> Iterator[Case]:
    yield create(MISSING, event_id="no-such-event")
    yield from (create(INVALID, event_id=value) for value in EVENT_IDS)
    yield from (create(INVALID, user_id=value) for value in USER_IDS)
    yield from (create(INVALID, ticket_count=value) for value in COUNTS)
    yield from (create(INVALID, idempotency_key=value) for value in KEYS)


def readings() -> Iterator[Case]:
    for value in UNKNOWN_IDS:
        yield Case("GetBooking", "gateway", pb.GetBookingRequest(id=value), MISSING)
    for value in [*USER_IDS[1:], "nobody"]:
        request = pb.GetBookingRequest(id=str(uuid.UUID(int=0)), user_id=value)
        yield Case("GetBooking", "gateway", request, MISSING)
    yield from (read(INVALID, user_id=value) for value in USER_IDS)
    yield from (read(INVALID, page_size=value) for value in [-1, 101, 2**31 - 1, -(2**31)])
    yield from (read(INVALID, cursor=value) for value in UNKNOWN_IDS[1:9] + CONTROL)


def tickets() -> Iterator[Case]:
    def page(status: grpc.StatusCode, **fields: Any) -> Case:
        good = {"booking_id": str(uuid.UUID(int=0))}
        return Case("ListTickets", "gateway", pb.ListTicketsRequest(**(good | fields)), status)

    yield from (page(MISSING, booking_id=value) for value in UNKNOWN_IDS)
    yield from (page(MISSING, user_id=value) for value in [*USER_IDS[1:], "nobody"])
    yield from (page(INVALID, page_size=value) for value in [-1, 101, 2**31 - 1, -(2**31)])
    yield from (page(INVALID, after=value) for value in [-1, 1_001, 2**31 - 1, -(2**31)])


def transitions() -> Iterator[Case]:
    yield from (cancel(MISSING, id=value) for value in UNKNOWN_IDS)
    unknown = str(uuid.UUID(int=0))
    yield from (cancel(MISSING, id=unknown, user_id=value) for value in USER_IDS)
    yield from (cancel(INVALID, id=unknown, reason=v) for v in ["x" * 501, HUGE, *CONTROL])
    for value in UNKNOWN_IDS:
        yield Case("ConfirmBooking", "payment", pb.ConfirmBookingRequest(id=value), MISSING)
        yield Case("ExtendHold", "payment", pb.ExtendHoldRequest(id=value), MISSING)
        yield Case("RecordRefund", "payment", pb.RecordRefundRequest(id=value), MISSING)


def batches() -> Iterator[Case]:
    confirmation = pb.BatchConfirmBookingsRequest.Confirmation(id=str(uuid.UUID(int=0)))
    for count in (0, 501):
        batch = pb.BatchConfirmBookingsRequest(confirmations=[confirmation] * count)
        yield Case("BatchConfirmBookings", "payment", batch, INVALID)


def sales() -> Iterator[Case]:
    yield from (put(event_id=value) for value in EVENT_IDS)
    yield from (put(version=value) for value in VERSIONS)
    yield from (put(capacity=value) for value in [0, -1, 1_000_001, 2**31 - 1, -(2**31)])
    yield from (put(max_per_booking=value) for value in COUNTS[1:])
    yield from (put(max_per_user=value) for value in [-1, 1_000_001, 2**31 - 1, -(2**31)])
    for amount in (-1, 10**10, 2**63 - 1, -(2**63)):
        yield put(price=pb.Money(amount_minor=amount, currency="EUR"))
    for currency in ("", "eur", "EURO", "EÜR", HUGE, *CONTROL):
        yield put(price=pb.Money(amount_minor=1, currency=currency))
    yield Case("PutSale", "event", pb.PutSaleRequest(event_id=EVENT, version=2), INVALID)
    yield close(MISSING, event_id="no-such-event")
    yield close(MISSING, event_id="no-such-event", version=2**63 - 1)
    yield from (close(INVALID, event_id=value) for value in EVENT_IDS)
    yield from (close(INVALID, version=value) for value in VERSIONS)


def times() -> Iterator[Case]:
    wrong = [
        Timestamp(seconds=2**63 - 1),
        Timestamp(seconds=-(2**63)),
        Timestamp(seconds=253_402_300_800),  # the year 10000
        Timestamp(seconds=-62_135_596_801),  # before the year 1
        Timestamp(nanos=10**9),
        Timestamp(nanos=-1),
        Timestamp(seconds=2**63 - 1, nanos=2**31 - 1),
    ]
    for moment in wrong:
        yield put(sales_start=moment)
        yield put(sales_end=moment)
    yield put(sales_start=Timestamp(seconds=2), sales_end=Timestamp(seconds=1))
    yield put(sales_start=Timestamp(seconds=2), sales_end=Timestamp(seconds=2))
    # Less than PostgreSQL's microsecond apart.
    yield put(sales_start=Timestamp(nanos=1), sales_end=Timestamp(nanos=2))


def availabilities() -> Iterator[Case]:
    yield ask()
    yield from (ask(value) for value in EVENT_IDS)
    yield ask(*(f"e{number}" for number in range(101)))
    yield ask(*(f"e{number}" for number in range(5_000)))
    yield ask(*[" "] * 100)


CASES = [
    *creations(),
    *readings(),
    *tickets(),
    *transitions(),
    *batches(),
    *sales(),
    *times(),
    *availabilities(),
]


@pytest.fixture(scope="module")
def channel(
    postgres: Server, redis: Server, rabbitmq: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[grpc.Channel]:
    """A channel to a task that all cases share, with one open sale."""
    directory = tmp_path_factory.mktemp("wrong-arguments")
    with (
        booking_tasks(postgres, redis, rabbitmq, directory) as (task,),
        task.channel() as channel,
    ):
        Client(channel).put_sale(EVENT, 10)
        yield channel
        assert_no_complaint(task)


def assert_no_complaint(task: BookingTask) -> None:
    assert '"ERROR"' not in task.log.read_text()


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{number}-{case.method}" for number, case in enumerate(CASES)]
)
def test_a_wrong_argument_is_refused(channel: grpc.Channel, case: Case) -> None:
    call = getattr(pb_grpc.BookingServiceStub(channel), case.method)
    with pytest.raises(grpc.RpcError) as failure:
        call(case.request, **call_as(case.caller))
    assert failure.value.code() is case.status, failure.value.details()


def varint(value: int) -> bytes:
    """Encode an unsigned number as protobuf does."""
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


@pytest.mark.parametrize("count", [2**31, 2**32, 2**32 - 1, 2**63, 2**64 - 1])
def test_a_number_that_is_too_large_for_its_field_is_refused(
    channel: grpc.Channel, count: int
) -> None:
    good = pb.CreateBookingRequest(event_id=EVENT, user_id="ada").SerializeToString()
    wire = good + b"\x18" + varint(count)  # field 3, ticket_count
    call: Any = channel.unary_unary(f"{SERVICE}/CreateBooking")
    with pytest.raises(grpc.RpcError) as failure:
        call(wire, **call_as("gateway"))
    assert failure.value.code() is INVALID


def test_a_message_above_the_limit_is_refused(channel: grpc.Channel) -> None:
    request = pb.CreateBookingRequest(event_id="x" * 70_000)
    with pytest.raises(grpc.RpcError) as failure:
        pb_grpc.BookingServiceStub(channel).CreateBooking(request, **call_as("gateway"))
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_largest_arguments_are_taken(channel: grpc.Channel) -> None:
    client = Client(channel)
    event_id, user_id = "!" * 64, "\U0001f3ab" * 128
    client.put_sale(
        event_id,
        1_000_000,
        version=2**63 - 1,
        price=pb.Money(amount_minor=10**9, currency="EUR"),
        sales_start=Timestamp(seconds=-62_135_596_800),
        sales_end=Timestamp(seconds=253_402_300_799, nanos=999_999_999),
        max_per_booking=1_000,
        max_per_user=1_000_000,
    )
    key = "~" * 255
    made = client.create(event_id, 1_000, user=user_id, key=key).booking
    assert made.amount.amount_minor == 10**12
    assert client.create(event_id, 1_000, user=user_id, key=key).replayed
    request = pb.CancelBookingRequest(id=made.id.upper(), user_id=user_id, reason="é" * 500)
    cancelled = client.stub.CancelBooking(request, **call_as("gateway"))
    assert cancelled.reason == "é" * 500
    ids = ["!" * 64] * 100
    answer = client.stub.GetAvailability(
        pb.GetAvailabilityRequest(event_ids=ids), **call_as("event")
    )
    assert dict(answer.remaining) == {event_id: 1_000_000}


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"\x0a\x02\xff\xfe", id="an event id that is not UTF-8"),
        pytest.param(b"\x12\x03\xed\xa0\x80", id="a user id with a lone surrogate"),
        pytest.param(b"\x0a\x7f", id="a string that is cut off"),
        pytest.param(b"\xff" * 64, id="no message at all"),
    ],
)
def test_bytes_that_are_no_message_are_refused(channel: grpc.Channel, wire: bytes) -> None:
    call: Any = channel.unary_unary(f"{SERVICE}/CreateBooking")
    with pytest.raises(grpc.RpcError) as failure:
        call(wire, **call_as("gateway"))
    assert failure.value.code() is INVALID
