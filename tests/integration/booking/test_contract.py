"""Every method of the contract, over gRPC, against real servers."""

import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.booking_task import BookingTask, Client, call_as, orders
from tests.integration.servers import Server
from ticketra import rpc
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.errors import Refusal


class refused:  # noqa: N801 - reads as a statement
    """Expect a refusal with a code; `refusal` is what came."""

    def __init__(self, code: str, status: grpc.StatusCode | None = None) -> None:
        self._code, self._status = code, status
        self.refusal: Refusal

    def __enter__(self) -> "refused":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        assert isinstance(error, grpc.RpcError), "the call was not refused"
        found = rpc.to_refusal(error)
        assert found is not None, error
        assert found.code == self._code
        if self._status is not None:
            assert error.code() == self._status
        self.refusal = found
        return True


def moment(offset: timedelta) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(datetime.now(UTC) + offset)
    return timestamp


def outbox(postgres: Server, subject: str) -> list[str]:
    with orders(postgres) as connection:
        rows = connection.execute(
            "SELECT routing_key FROM outbox WHERE subject = %s ORDER BY position", [subject]
        ).fetchall()
    return [row[0] for row in rows]


def test_a_booking_lives_from_hold_to_refund(
    client: Client, event_id: str, postgres: Server
) -> None:
    client.put_sale(event_id, 10)
    made = client.create(event_id, 2, user="ada").booking
    assert uuid.UUID(made.id).version == 7
    assert (made.status, made.payment_status) == (
        pb.BOOKING_STATUS_PENDING,
        pb.PAYMENT_STATUS_PENDING,
    )
    assert (made.amount.amount_minor, made.amount.currency) == (5000, "EUR")
    held_s = made.hold_expires_at.seconds - made.created_at.seconds
    assert held_s == 600
    assert client.remaining(event_id) == 8

    confirmed = client.confirm(made.id)
    assert confirmed.status == pb.BOOKING_STATUS_CONFIRMED
    assert client.confirm(made.id) == confirmed
    assert client.remaining(event_id) == 8

    cancelled = client.cancel(made.id, user="ada")
    assert cancelled.status == pb.BOOKING_STATUS_CANCELLED
    assert cancelled.payment_status == pb.PAYMENT_STATUS_REFUNDING
    assert cancelled.reason == "changed my mind"
    assert client.cancel(made.id, user="ada") == cancelled
    assert client.get(made.id) == cancelled
    assert client.remaining(event_id) == 10
    assert outbox(postgres, made.id) == [
        "booking.created",
        "booking.confirmed",
        "booking.cancelled",
    ]


def test_a_declined_payment_gives_the_tickets_back(client: Client, event_id: str) -> None:
    client.put_sale(event_id, 6)
    made = client.create(event_id, 6).booking
    declined = client.decline(made.id)
    assert declined.status == pb.BOOKING_STATUS_CANCELLED
    assert declined.payment_status == pb.PAYMENT_STATUS_DECLINED
    assert client.decline(made.id) == declined
    assert client.remaining(event_id) == 6
    with refused("booking_cancelled", grpc.StatusCode.FAILED_PRECONDITION):
        client.confirm(made.id)


def test_a_batch_names_those_that_are_confirmed(
    client: Client, event_id: str, postgres: Server
) -> None:
    client.put_sale(event_id, 10)
    held, cancelled, sold = (client.create(event_id).booking.id for _ in range(3))
    client.cancel(cancelled)
    client.confirm(sold)
    unknown = str(uuid.UUID(int=0))
    asked = (held, cancelled, sold, held, unknown, "no uuid", held.upper())
    assert client.confirm_batch(*asked) == [held, sold]
    assert client.confirm_batch(cancelled, unknown, "no uuid") == []
    assert client.get(held).status == pb.BOOKING_STATUS_CONFIRMED
    assert client.get(cancelled).payment_status == pb.PAYMENT_STATUS_PENDING, "left to who asks"
    assert outbox(postgres, held) == ["booking.created", "booking.confirmed"]


def test_refusals_carry_the_codes_of_the_api(client: Client, event_id: str) -> None:
    with refused("event_not_found", grpc.StatusCode.NOT_FOUND):
        client.create(event_id)
    client.put_sale(event_id, 5, max_per_booking=4, max_per_user=4)
    with refused("booking_limit", grpc.StatusCode.FAILED_PRECONDITION):
        client.create(event_id, 5)
    client.create(event_id, 3)
    with refused("booking_limit"):
        client.create(event_id, 2)
    with refused("not_enough_tickets") as answer:
        client.create(event_id, 3, user="bob")
    assert answer.refusal.available == 2
    client.create(event_id, 2, user="bob")
    with refused("sold_out"):
        client.create(event_id, 1, user="carol")
    with refused("booking_not_found", grpc.StatusCode.NOT_FOUND):
        client.get(str(uuid.uuid4()))
    with refused("booking_not_found"):
        client.get("not an id")


def test_another_users_booking_is_not_found(client: Client, event_id: str) -> None:
    client.put_sale(event_id, 5)
    made = client.create(event_id, user="ada").booking
    with refused("booking_not_found"):
        client.get(made.id, user="bob")
    with refused("booking_not_found"):
        client.cancel(made.id, user="bob")
    assert client.get(made.id, user="ada").status == pb.BOOKING_STATUS_PENDING


def test_wrong_fields_are_named(client: Client) -> None:
    with refused("validation_failed", grpc.StatusCode.INVALID_ARGUMENT) as answer:
        client.create("", 0, user="a\x00", key="ä")
    assert {error.field for error in answer.refusal.errors} == {
        "event_id",
        "user_id",
        "ticket_count",
        "idempotency_key",
    }


def test_the_sale_window_is_kept(client: Client, event_id: str) -> None:
    client.put_sale(event_id, 5, sales_start=moment(timedelta(hours=1)))
    with refused("sale_not_open"):
        client.create(event_id)
    client.put_sale(event_id, 5, version=2, sales_end=moment(-timedelta(hours=1)))
    with refused("sale_not_open"):
        client.create(event_id)
    client.put_sale(event_id, 5, version=3, sales_start=moment(-timedelta(hours=1)))
    assert client.create(event_id).booking.id


def test_a_key_replays_its_booking_and_refuses_another_request(
    client: Client, event_id: str
) -> None:
    client.put_sale(event_id, 3)
    key = str(uuid.uuid4())
    made = client.create(event_id, 2, key=key)
    assert not made.replayed
    again = client.create(event_id, 2, key=key)
    assert again.replayed
    assert again.booking == made.booking
    with refused("idempotency_mismatch", grpc.StatusCode.INVALID_ARGUMENT):
        client.create(event_id, 1, key=key)
    assert not client.create(event_id, 1, user="bob", key=key).replayed
    with refused("sold_out"):
        client.create(event_id, 1, user="carol")
    assert client.create(event_id, 2, key=key).replayed, "a replay comes before sold out"


def test_a_key_that_only_seems_fresh_still_makes_one_booking(client: Client, event_id: str) -> None:
    client.put_sale(event_id, 5)
    key = str(uuid.uuid4())
    made = client.create(event_id, 1, key=key, fresh=True)
    again = client.create(event_id, 1, key=key, fresh=True)
    assert again.replayed
    assert again.booking.id == made.booking.id
    assert client.remaining(event_id) == 4


def test_pages_of_bookings_come_newest_first(client: Client, event_id: str) -> None:
    client.put_sale(event_id, 10)
    user = f"user-of-{event_id}"
    made = []
    for _ in range(5):
        made.append(client.create(event_id, user=user).booking.id)
        time.sleep(0.002)  # ids sort by the millisecond
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        page = client.stub.ListBookings(
            pb.ListBookingsRequest(user_id=user, page_size=2, cursor=cursor), **call_as("gateway")
        )
        seen += [booking.id for booking in page.bookings]
        cursor = page.next_cursor
    assert seen == made[::-1]
    assert cursor == ""
    with refused("validation_failed"):
        client.stub.ListBookings(
            pb.ListBookingsRequest(user_id=user, cursor="x"), **call_as("gateway")
        )


def test_terms_change_by_version_and_capacity_moves_stock(client: Client, event_id: str) -> None:
    client.put_sale(event_id, 5)
    client.create(event_id, 4)
    assert client.put_sale(event_id, 50, version=1).terms.capacity == 5
    assert client.put_sale(event_id, 6, version=2).remaining == 2
    with refused("capacity_below_sold", grpc.StatusCode.FAILED_PRECONDITION):
        client.put_sale(event_id, 3, version=3)
    assert client.put_sale(event_id, 4, version=3).remaining == 0


def test_a_closed_sale_takes_no_booking_and_tells_the_world(
    client: Client, event_id: str, postgres: Server
) -> None:
    def close(version: int) -> pb.Sale:
        request = pb.CloseSaleRequest(event_id=event_id, version=version)
        sale: pb.Sale = client.stub.CloseSale(request, **call_as("event"))
        return sale

    with refused("event_not_found"):
        close(2)
    client.put_sale(event_id, 5)
    assert not close(1).closed
    assert close(2).closed
    assert close(3).closed
    with refused("sale_not_open"):
        client.create(event_id)
    with refused("sale_closed"):
        client.put_sale(event_id, 9, version=4)
    assert outbox(postgres, event_id) == ["sale.closed"]


def test_availability_leaves_out_events_without_a_sale(client: Client, event_id: str) -> None:
    client.put_sale(event_id, 7)
    answer = client.stub.GetAvailability(
        pb.GetAvailabilityRequest(event_ids=[event_id, "none"]), **call_as("event")
    )
    assert dict(answer.remaining) == {event_id: 7}


@pytest.mark.parametrize(
    ("metadata", "status"),
    [
        ((), grpc.StatusCode.UNAUTHENTICATED),
        (rpc.caller_metadata("gateway", "wrong"), grpc.StatusCode.UNAUTHENTICATED),
        (call_as("payment")["metadata"], grpc.StatusCode.PERMISSION_DENIED),
    ],
)
def test_callers_are_checked(client: Client, metadata: Any, status: grpc.StatusCode) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        client.stub.CreateBooking(pb.CreateBookingRequest(), metadata=metadata, timeout=5)
    assert failure.value.code() == status


def test_only_payment_may_decline(client: Client, event_id: str) -> None:
    client.put_sale(event_id, 5)
    made = client.create(event_id).booking
    request = pb.CancelBookingRequest(id=made.id, payment_declined=True)
    with refused("caller_not_allowed", grpc.StatusCode.PERMISSION_DENIED):
        client.stub.CancelBooking(request, **call_as("gateway"))


def test_reflection_names_the_service(task: BookingTask) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    with task.channel() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        [answer] = stub.ServerReflectionInfo(iter([asked]), timeout=5)
    names = {service.name for service in answer.list_services_response.service}
    assert "ticketra.booking.v1.BookingService" in names
