"""The ceiling: `grpc.aio` on uvloop with a method that does nothing, or refuses everything.

Run as `python -m tests.load.empty_server ADDRESS empty|refuse|own`; `own` does nothing on the
booking task's own server.
"""

import asyncio
import sys
from typing import cast

import grpc
import uvloop
from grpc_status import rpc_status

import booking.server
from tests.load.registration import Context, serve_create_booking
from ticketra import rpc
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.errors import Conflict


class Empty:
    """Answers at once."""

    async def create_booking(
        self, request: pb.CreateBookingRequest, context: Context
    ) -> pb.CreateBookingResponse:
        return pb.CreateBookingResponse()


class Refuse:
    """Refuses at once, with a refusal that was built before."""

    def __init__(self) -> None:
        refusal = Conflict("sold_out", "The event is sold out.")
        self._status = rpc_status.to_status(rpc.to_status(refusal))

    async def create_booking(
        self, request: pb.CreateBookingRequest, context: Context
    ) -> pb.CreateBookingResponse:
        await context.abort_with_status(self._status)
        raise AssertionError


async def _serve(address: str, kind: str) -> None:
    if kind == "own":
        own = booking.server.make_server()
        serve_create_booking(cast("grpc.aio.Server", own), Empty().create_booking)
        await own.start(address)
    else:
        server = grpc.aio.server()
        servicer = Empty() if kind == "empty" else Refuse()
        serve_create_booking(server, servicer.create_booking)
        server.add_insecure_port(address)
        await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], sys.argv[2]))
