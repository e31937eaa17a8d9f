"""How long a sold-out sale stays sold out after tickets came back, in every task."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import grpc
import uvloop

from tests.integration.booking_task import CREDENTIALS, BookingTask
from ticketra import rpc
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.booking.v1 import booking_pb2_grpc as pb_grpc

CALL_LIMIT_S = 5.0
REOPENING_LIMIT_S = 10.0
EVENT = rpc.caller_metadata("event", CREDENTIALS["event"])
GATEWAY = rpc.caller_metadata("gateway", CREDENTIALS["gateway"])


class StillSoldOut(Exception):  # noqa: N818 - a finding, not a failure of this program
    """A task did not sell a returned ticket within REOPENING_LIMIT_S."""


def measure(tasks: Sequence[BookingTask], rounds: int) -> list[float]:
    """Return, for each round, the milliseconds until the last task sells again.

    Each task has a port of its own. They are counted from the first task's answer to a
    cancellation, which gives back one ticket for each task, until every task has sold one. All
    tasks have answered "sold out" right before, so all have a new marker.

    Raises:
        StillSoldOut: the tickets stay hidden.
        grpc.RpcError: a call failed in another way.

    """
    return uvloop.run(_measure([task.address for task in tasks], rounds))


async def _measure(addresses: list[str], rounds: int) -> list[float]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=options) for address in addresses]
    stubs: list[Any] = [pb_grpc.BookingServiceStub(channel) for channel in channels]
    run = f"reopening-{time.time_ns()}"
    try:
        return [await _reopen(stubs, f"{run}-{number}") for number in range(rounds)]
    finally:
        for channel in channels:
            await channel.close()


async def _reopen(stubs: list[Any], event_id: str) -> float:
    terms = pb.SaleTerms(capacity=len(stubs))
    opening = pb.PutSaleRequest(event_id=event_id, version=1, terms=terms)
    await stubs[0].PutSale(opening, metadata=EVENT, timeout=CALL_LIMIT_S)
    held = await _booked(stubs[0], event_id, len(stubs))
    more = [await _booked(stub, event_id, 1) for stub in stubs]
    assert held is not None
    assert not any(more), "the sale was to be sold out"
    cancelling = pb.CancelBookingRequest(id=held.id, reason="measured")
    await stubs[0].CancelBooking(cancelling, metadata=GATEWAY, timeout=CALL_LIMIT_S)
    started = time.perf_counter()
    try:
        async with asyncio.timeout(REOPENING_LIMIT_S):
            await asyncio.gather(*(_until_booked(stub, event_id) for stub in stubs))
    except TimeoutError:
        raise StillSoldOut(event_id) from None
    return (time.perf_counter() - started) * 1000


async def _until_booked(stub: Any, event_id: str) -> None:
    while await _booked(stub, event_id, 1) is None:
        pass


async def _booked(stub: Any, event_id: str, count: int) -> pb.Booking | None:
    """Book tickets; None if the event is sold out."""
    request = pb.CreateBookingRequest(event_id=event_id, user_id="ada", ticket_count=count)
    try:
        answer = await stub.CreateBooking(request, metadata=GATEWAY, timeout=CALL_LIMIT_S)
    except grpc.aio.AioRpcError as error:
        refusal = rpc.to_refusal(error)
        if refusal is None or refusal.code != "sold_out":
            raise
        return None
    booking: pb.Booking = answer.booking
    return booking
