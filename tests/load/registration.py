"""Registers one method of the contract, the way the generated code registers all of them."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from ticketra.booking.v1 import booking_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["BookingService"].full_name
Context = grpc.aio.ServicerContext[Any, Any]
CreateBooking = Callable[[pb.CreateBookingRequest, Context], Awaitable[pb.CreateBookingResponse]]


def serve_create_booking(server: grpc.aio.Server, method: CreateBooking) -> None:
    """Let `server` answer CreateBooking with `method`."""
    handler: Any = grpc.unary_unary_rpc_method_handler(
        method,
        request_deserializer=pb.CreateBookingRequest.FromString,
        response_serializer=pb.CreateBookingResponse.SerializeToString,
    )
    handlers = {"CreateBooking": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)
