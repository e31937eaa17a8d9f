"""Entry point of the booking task: `python -m booking.server`."""

import asyncio
import gc
import secrets
import signal
import sys
import time
from contextlib import suppress
from datetime import timedelta
from typing import cast

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from booking import stock
from booking.batch_store import BatchStore
from booking.booking_store import BookingStore
from booking.bookings import Bookings
from booking.callers import EVENT, GATEWAY, PAYMENT, Callers
from booking.changes import Changes
from booking.closing import Closer
from booking.closing_store import ClosingStore
from booking.grace import Grace
from booking.group_store import GroupStore
from booking.holds import Sweeper
from booking.http2.server import Server
from booking.lock import CONTENDED, OUTBOX, RELEASED, EventLock, Signals
from booking.markers import SoldOutMarkers
from booking.sale_group_store import SaleGroupStore
from booking.sale_store import SaleStore
from booking.servicer import BookingServicer, unreadable
from booking.settings import BookingSettings
from booking.ticket_store import TicketStore
from booking.tickets import Tickets
from booking.writer import Writer
from ticketra.background import beat, named
from ticketra.booking.v1 import booking_pb2, booking_pb2_grpc
from ticketra.broker import Broker
from ticketra.database import Database
from ticketra.ids import IdSource
from ticketra.log import logger
from ticketra.outbox_store import OutboxStore
from ticketra.relay import Relay
from ticketra.settings import SettingsError, load_settings

MESSAGE_LIMIT_BYTES = 64 * 1024
METADATA_LIMIT_BYTES = 8 * 1024
CONNECTIONS_LIMIT = 2_000
CONCURRENT_CALLS_LIMIT = 20_000
LAME_DUCK_S = 1.0  # still serves what callers sent before they learned that this task stops
DRAIN_LIMIT_S = 12.0
FLUSH_LIMIT_S = 5.0
SOURCE = "/ticketra/booking"
SERVICE_NAME = booking_pb2.DESCRIPTOR.services_by_name["BookingService"].full_name


class Task:
    """The parts of one booking task, wired together."""

    def __init__(self, settings: BookingSettings) -> None:
        mint_id = IdSource()
        markers = SoldOutMarkers()
        redis = (
            settings.redis_url,
            settings.redis_username,
            settings.redis_password.get_secret_value(),
        )
        self._database = Database(
            settings.postgres_url,
            settings.postgres_username,
            settings.postgres_password.get_secret_value(),
            name="booking",
        )
        self._batch_store = BatchStore(self._database, wait=False)
        self._waiting_store = BatchStore(self._database, wait=True)
        token = secrets.token_hex(16)
        self._lock = EventLock(*redis, token=token, clock=time.monotonic)
        self._writer = Writer(
            self._database,
            self._batch_store,
            self._waiting_store,
            self._lock,
            markers,
            hold_ttl=timedelta(seconds=settings.hold_ttl_s),
            on_commit=self._on_commit,
        )
        broker = Broker(
            settings.rabbitmq_url,
            settings.rabbitmq_username,
            settings.rabbitmq_password.get_secret_value(),
            name="booking",
        )
        self._relay = Relay(OutboxStore(self._database), broker, SOURCE)
        bookings = BookingStore(self._database, mint_id)
        self._sweeper = Sweeper(bookings, settings.hold_ttl_s, settings.hold_max_s, self._on_commit)
        self._grace = Grace(lambda: self._database.available, settings.hold_ttl_s)
        self._closer = Closer(ClosingStore(self._database, mint_id), self._on_commit)
        self._signals = Signals(
            *redis,
            token=token,
            handlers={
                RELEASED: self._writer.unpark,
                CONTENDED: self._writer.mark_contended,
                OUTBOX: lambda _: self._relay.wake(),
            },
        )
        stock.listen(self._database, markers.reopen)
        self._database.on_change = self._show_health
        self._health = HealthServicer()
        self._announcing: asyncio.Task[None] | None = None
        served = self._bookings(settings, bookings, markers, mint_id)
        tickets = Tickets(served, TicketStore(self._database), settings.ticket_keys)
        self._server = _server(settings, served, tickets, self._health)
        self._background: list[asyncio.Task[None]] = []
        self._draining = False
        self._address = settings.listen_address

    async def run(self) -> int:
        """Serve until a signal asks to stop, or a part of the task breaks; return the exit code."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self._show_health(available=False)
        await self._database.open()
        self._background = [
            named("watch", self._database.watch()),
            named("writer", self._writer.run()),
            named("expiry", self._writer.run_expiry()),
            named("signals", self._signals.listen()),
            named("relay", self._relay.run()),
            named("sweeper", self._sweeper.run(self._grace)),
            named("closer", self._closer.run()),
            named("heartbeat", beat()),
        ]
        # A full collection would look at all that was imported: 20 ms in which nobody is answered.
        gc.collect()
        gc.freeze()
        await self._server.start(self._address)
        logger.info("serving")
        stopping = named("stop", _wait(stop))
        done, _ = await asyncio.wait(
            [stopping, *self._background], return_when=asyncio.FIRST_COMPLETED
        )
        broken = [task for task in done if task is not stopping]
        for task in broken:
            logger.error(
                "a part of the task ended",
                extra={"part": task.get_name()},
                exc_info=task.exception(),
            )
        stopping.cancel()
        await self._drain()
        return 1 if broken else 0

    def _bookings(
        self,
        settings: BookingSettings,
        store: BookingStore,
        markers: SoldOutMarkers,
        mint_id: IdSource,
    ) -> Bookings:
        return Bookings(
            self._writer,
            store,
            Changes(
                store,
                GroupStore(self._database, mint_id),
                SaleGroupStore(self._database, mint_id),
                self._on_commit,
            ),
            SaleStore(self._database),
            markers=markers,
            mint_id=mint_id,
            hold_ttl=timedelta(seconds=settings.hold_ttl_s),
            hold_max=timedelta(seconds=settings.hold_max_s),
            on_commit=self._on_commit,
            on_close=self._closer.wake,
        )

    async def _drain(self) -> None:
        """Take no new calls, answer those that wait, publish what is committed, and close."""
        logger.info("draining")
        self._draining = True
        await self._show_health(available=False)
        await asyncio.sleep(LAME_DUCK_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_LIMIT_S):
                await asyncio.gather(self._server.stop(DRAIN_LIMIT_S), self._writer.drained())
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_LIMIT_S):
                await self._relay.flushed()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._relay.close()
        await self._batch_store.close()
        await self._waiting_store.close()
        await self._signals.close()
        await self._lock.close()
        await self._database.close()
        logger.info("stopped")

    def _on_commit(self) -> None:
        """Wake the relay, here or in the task that has the lead."""
        if self._relay.leads:
            self._relay.wake()
        elif self._announcing is None or self._announcing.done():
            self._announcing = asyncio.get_running_loop().create_task(self._lock.signal(OUTBOX))

    async def _show_health(self, available: bool) -> None:  # noqa: FBT001 - a call-back
        serving = available and not self._draining
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if serving
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in ("", SERVICE_NAME):
            await self._health.set(name, status)


def make_server() -> Server:
    """Return a server with this task's limits, and with no methods yet."""
    return Server(
        message_limit_bytes=MESSAGE_LIMIT_BYTES,
        metadata_limit_bytes=METADATA_LIMIT_BYTES,
        connections_limit=CONNECTIONS_LIMIT,
        calls_limit=CONCURRENT_CALLS_LIMIT,
        unreadable=unreadable(),
    )


def _server(
    settings: BookingSettings, bookings: Bookings, tickets: Tickets, health: HealthServicer
) -> Server:
    server = make_server()
    callers = Callers(
        {
            GATEWAY: settings.caller_credential_gateway.get_secret_value(),
            EVENT: settings.caller_credential_event.get_secret_value(),
            PAYMENT: settings.caller_credential_payment.get_secret_value(),
        }
    )
    names = (SERVICE_NAME, "grpc.health.v1.Health", reflection.SERVICE_NAME)
    generated = cast("grpc.aio.Server", server)  # what generated code takes it for
    booking_pb2_grpc.add_BookingServiceServicer_to_server(
        BookingServicer(bookings, tickets, callers), generated
    )
    health_pb2_grpc.add_HealthServicer_to_server(health, generated)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
        reflection.aio.ReflectionServicer(names), generated
    )
    return server


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _main(settings: BookingSettings) -> int:
    return await Task(settings).run()


def main() -> int:
    """Run one booking task until it is told to stop."""
    try:
        settings = load_settings(BookingSettings)
    except SettingsError as error:
        logger.error(str(error))
        return 2
    return uvloop.run(_main(settings))


if __name__ == "__main__":
    sys.exit(main())
