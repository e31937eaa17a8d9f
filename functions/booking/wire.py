"""Registers the service so that a request that cannot be read is refused like any wrong argument.

gRPC answers it with UNKNOWN, as if it were our fault: bytes that are no message, or a string field
that is not UTF-8.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status

from ticketra import rpc
from ticketra.booking.v1 import booking_pb2, booking_pb2_grpc
from ticketra.errors import Malformed

SERVICE = booking_pb2.DESCRIPTOR.services_by_name["BookingService"]

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Message, Context], Awaitable[Message]]


def add_to_server(
    servicer: booking_pb2_grpc.BookingServiceServicer, server: grpc.aio.Server
) -> None:
    """Let `server` serve all methods of the contract."""
    handlers = {
        method.name: _handler(getattr(servicer, method.name), method) for method in SERVICE.methods
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),)
    )
    server.add_registered_method_handlers(SERVICE.full_name, handlers)


def _handler(method: Method, descriptor: MethodDescriptor) -> Any:
    request = GetMessageClass(descriptor.input_type)
    answer = GetMessageClass(descriptor.output_type)
    return grpc.unary_unary_rpc_method_handler(
        _refusing_unreadable(method),
        request_deserializer=partial(_parsed, request.FromString),
        response_serializer=answer.SerializeToString,
    )


def _parsed(parse: Callable[[bytes], Message], data: bytes) -> Message | None:
    try:
        return parse(data)
    except DecodeError:
        return None


def _refusing_unreadable(
    method: Method,
) -> "Callable[[Message | None, Context], Awaitable[Message]]":
    async def call(request: Message | None, context: Context) -> Message:
        if request is None:
            await context.abort_with_status(rpc_status.to_status(rpc.to_status(_unreadable())))
            raise AssertionError  # abort has raised
        return await method(request, context)

    return call


def _unreadable() -> Malformed:
    return Malformed(
        "malformed_request", "The request is not a message of the contract, encoded in UTF-8."
    )
