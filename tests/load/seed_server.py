"""The seed's protocol, written plainly: SET NX, INSERT, publish, DEL; "busy" while it is locked.

It keeps no stock, no keys and no outbox, and its messages are not confirmed: that is the protocol.
Run as `python -m tests.load.seed_server` with the settings of the booking task.
"""

import asyncio
import json
import time
import uuid
from typing import Any

import grpc
import pika
import redis.asyncio as redis
import uvloop
from grpc_status import rpc_status
from pika.adapters.asyncio_connection import AsyncioConnection
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from booking.settings import BookingSettings
from tests.load.registration import Context, serve_create_booking
from ticketra import rpc
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.errors import Busy
from ticketra.settings import load_settings

LOCK_TTL_MS = 5_000
POOL_SIZE = 16
Pool = AsyncConnectionPool[AsyncConnection[Any]]

CREATE_TABLE = """
CREATE TABLE seed_bookings (
    id uuid PRIMARY KEY, event_id text, user_id text, ticket_count integer, status text,
    created_at timestamptz
);
GRANT INSERT ON seed_bookings TO booking
"""
INSERT = "INSERT INTO seed_bookings VALUES (%s, %s, %s, %s, 'PENDING', now())"


class Seed:
    """One lock for each booking."""

    def __init__(self, pool: Pool, cache: "redis.Redis", channel: Any) -> None:
        self._pool = pool
        self._cache = cache
        self._channel = channel
        self._busy = rpc_status.to_status(
            rpc.to_status(Busy("event_busy", "Event is busy, try again", retry_after_s=1))
        )

    async def create_booking(
        self, request: pb.CreateBookingRequest, context: Context
    ) -> pb.CreateBookingResponse:
        lock = f"lock:event:{request.event_id}"
        if not await self._cache.set(lock, "1", nx=True, px=LOCK_TTL_MS):
            await context.abort_with_status(self._busy)
        booking_id = str(uuid.uuid4())
        async with self._pool.connection() as connection:
            await connection.execute(
                INSERT, [booking_id, request.event_id, request.user_id, request.ticket_count]
            )
        body = {"booking_id": booking_id, "user_id": request.user_id, "at": time.time()}
        self._channel.basic_publish("seed.events", "booking.created", json.dumps(body).encode())
        await self._cache.delete(lock)
        return pb.CreateBookingResponse(
            booking=pb.Booking(id=booking_id, event_id=request.event_id, user_id=request.user_id)
        )


async def _channel(settings: BookingSettings) -> Any:
    parameters = pika.URLParameters(settings.rabbitmq_url)
    parameters.credentials = pika.PlainCredentials(
        settings.rabbitmq_username, settings.rabbitmq_password.get_secret_value()
    )
    opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    AsyncioConnection(
        parameters,
        on_open_callback=lambda connection: connection.channel(on_open_callback=opened.set_result),
    )
    channel = await opened
    declared: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    channel.exchange_declare("seed.events", "topic", durable=True, callback=declared.set_result)
    await declared
    return channel


async def _serve(settings: BookingSettings) -> None:
    pool: Pool = AsyncConnectionPool(
        settings.postgres_url,
        min_size=POOL_SIZE,
        max_size=POOL_SIZE,
        kwargs={
            "user": settings.postgres_username,
            "password": settings.postgres_password.get_secret_value(),
            "autocommit": True,
            "prepare_threshold": 0,
        },
        open=False,
    )
    await pool.open(wait=True)
    cache = redis.from_url(
        settings.redis_url, password=settings.redis_password.get_secret_value() or None
    )
    server = grpc.aio.server()
    servicer = Seed(pool, cache, await _channel(settings))
    serve_create_booking(server, servicer.create_booking)
    server.add_insecure_port(settings.listen_address)
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(load_settings(BookingSettings)))
