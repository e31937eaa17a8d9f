"""Requests that cannot be read, against a server that serves nothing else."""

from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import pytest

from booking.bookings import Bookings
from booking.callers import Callers
from booking.http2.server import Server
from booking.servicer import BookingServicer, unreadable
from booking.tickets import Tickets
from ticketra import rpc
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.booking.v1 import booking_pb2_grpc as pb_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["BookingService"]
UNREADABLE = {
    "no message": b"\xff",
    "a field that ends too early": b"\x0a\x7f",
    "a string that is not UTF-8": b"\x0a\x02\xff\xfe",
    "a lone surrogate": b"\x0a\x03\xed\xa0\x80",
    "an overlong NUL": b"\x0a\x02\xc0\x80",
    "a wrong wire type": b"\x0e",
}


class NoBookings:
    """Answers what reaches it with nothing."""

    async def availability(self, event_ids: list[str]) -> dict[str, int]:
        return {}


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    server = Server(
        message_limit_bytes=1_000,
        metadata_limit_bytes=8_000,
        connections_limit=10,
        calls_limit=10,
        unreadable=unreadable(),
    )
    pb_grpc.add_BookingServiceServicer_to_server(
        BookingServicer(
            cast("Bookings", NoBookings()), cast("Tickets", None), Callers({"event": "secret"})
        ),
        cast("grpc.aio.Server", server),
    )
    port = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened
    await server.stop(0)


@pytest.mark.parametrize("method", [method.name for method in SERVICE.methods])
async def test_what_cannot_be_read_is_a_wrong_argument(
    channel: grpc.aio.Channel, method: str
) -> None:
    call: Any = channel.unary_unary(f"/{SERVICE.full_name}/{method}")
    for wire in UNREADABLE.values():
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call(wire, metadata=rpc.caller_metadata("event", "secret"))
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT, wire
        refusal = rpc.to_refusal(failure.value)
        assert refusal is not None
        assert refusal.code == "malformed_request"


async def test_what_can_be_read_is_answered(channel: grpc.aio.Channel) -> None:
    answer = await pb_grpc.BookingServiceStub(channel).GetAvailability(
        pb.GetAvailabilityRequest(event_ids=["a"]),
        metadata=rpc.caller_metadata("event", "secret"),
    )
    assert answer == pb.GetAvailabilityResponse()


async def test_a_refusal_passes_through(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await pb_grpc.BookingServiceStub(channel).GetAvailability(pb.GetAvailabilityRequest())
    assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED
