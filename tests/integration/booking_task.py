"""Booking tasks as real processes, and a client for them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psycopg
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import SecretStr

from migrate import postgresql
from migrate.settings import MigrateSettings
from tests.integration.servers import PASSWORD, Server, free_port
from tests.unit.common.support import SigningKey
from ticketra import rpc
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.booking.v1 import booking_pb2_grpc as pb_grpc

ROOT = Path(__file__).parents[2]
START_LIMIT_S = 20.0
STOP_LIMIT_S = 25.0
CREDENTIALS = {name: f"credential-of-{name}" for name in ("gateway", "event", "payment")}
TICKET_KEY = SigningKey("tickets-1")
ROLES = ("identity", "booking", "payment")


def migrate_settings(postgres: Server) -> MigrateSettings:
    """Return the settings with which the migrate task prepares `postgres`."""
    roles: dict[str, Any] = {f"postgres_{role}_username": role for role in ROLES}
    roles |= {f"postgres_{role}_password": PASSWORD for role in ROLES}
    return MigrateSettings(
        postgres_url=postgres.url,
        postgres_username=postgres.username,
        postgres_password=SecretStr(postgres.password),
        mongodb_url="mongodb://127.0.0.1:1",
        mongodb_event_username="event",
        mongodb_event_password=SecretStr(PASSWORD),
        **roles,
    )


def migrate_postgres(postgres: Server) -> None:
    """Bring `postgres` to its present shape."""
    postgresql.apply(migrate_settings(postgres))


def orders(postgres: Server) -> psycopg.Connection[Any]:
    """Open an autocommit connection to the orders database, as the admin."""
    return psycopg.connect(
        f"{postgres.url}/orders",
        user=postgres.username,
        password=postgres.password,
        autocommit=True,
    )


def call_as(caller: str) -> dict[str, Any]:
    """Return the keyword arguments that make a call come from `caller`."""
    return {"metadata": rpc.caller_metadata(caller, CREDENTIALS[caller], "test"), "timeout": 10}


@dataclass
class BookingTask:
    """One booking task process. Give several the same port, and they share it."""

    environment: dict[str, str]
    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the process and wait until it serves, by its own log: the port may be shared."""
        before = len(self.log.read_text()) if self.log.exists() else 0
        self.launch()
        deadline = time.monotonic() + START_LIMIT_S
        while not _says_ready(self.log.read_text()[before:]):
            self._check(deadline, "ready")

    def launch(self) -> None:
        """Start the process without waiting."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "booking.server"],
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def wait_for_health(self, status: str, limit_s: float = START_LIMIT_S) -> None:
        """Wait until the health service of the port answers `status`."""
        deadline = time.monotonic() + limit_s
        while self.health() != status:
            self._check(deadline, status)

    def health(self) -> str:
        """Return what the health service says, or AWAY."""
        with self.channel() as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
            except grpc.RpcError:
                return "AWAY"
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def stop(self) -> int:
        """Ask the process to end, and return its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(STOP_LIMIT_S)

    def kill(self) -> None:
        """End the process without any warning."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def _check(self, deadline: float, awaited: str) -> None:
        assert self.process is not None
        if self.process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"not {awaited}: {self.log.read_text()[-3000:]}")
        time.sleep(0.05)

    @property
    def address(self) -> str:
        """The address that it listens on."""
        return f"127.0.0.1:{self.port}"

    def channel(self) -> grpc.Channel:
        """Open a channel of its own to the port."""
        return grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])


def _says_ready(log: str) -> bool:
    return '"serving"' in log and '"available":true' in log


@contextmanager
def booking_tasks(
    postgres: Server,
    redis: Server,
    rabbitmq: Server,
    directory: Path,
    *,
    count: int = 1,
    **settings: str,
) -> Iterator[list[BookingTask]]:
    """Run `count` booking tasks on one port; `settings` are further environment variables."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}/functions:{ROOT}/layers/common",
        "PYTHONDONTWRITEBYTECODE": "1",
        "POWERTOOLS_SERVICE_NAME": "booking",
        "LISTEN_ADDRESS": f"127.0.0.1:{port}",
        "POSTGRES_URL": f"{postgres.url}/orders",
        "POSTGRES_USERNAME": "booking",
        "POSTGRES_PASSWORD": PASSWORD,
        "REDIS_URL": redis.url,
        "REDIS_USERNAME": redis.username,
        "REDIS_PASSWORD": redis.password,
        "RABBITMQ_URL": rabbitmq.url,
        "RABBITMQ_USERNAME": rabbitmq.username,
        "RABBITMQ_PASSWORD": rabbitmq.password,
        **{f"CALLER_CREDENTIAL_{name.upper()}": value for name, value in CREDENTIALS.items()},
        "TICKET_KEYS": TICKET_KEY.secret,
        **settings,
    }
    tasks = [
        BookingTask(environment, port, directory / f"booking-{number}.log")
        for number in range(count)
    ]
    try:
        for task in tasks:
            task.start()
        yield tasks
    finally:
        for task in tasks:
            task.kill()


class Client:
    """Calls a booking task over one channel, as the caller that each method is for."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = pb_grpc.BookingServiceStub(channel)

    def put_sale(self, event_id: str, capacity: int, version: int = 1, **terms: Any) -> pb.Sale:
        """Open or change a sale."""
        terms.setdefault("price", pb.Money(amount_minor=2500, currency="EUR"))
        return self.stub.PutSale(
            pb.PutSaleRequest(
                event_id=event_id,
                version=version,
                terms=pb.SaleTerms(capacity=capacity, **terms),
            ),
            **call_as("event"),
        )

    def create(
        self,
        event_id: str,
        count: int = 1,
        user: str = "ada",
        key: str = "",
        *,
        fresh: bool = False,
    ) -> pb.CreateBookingResponse:
        """Ask for tickets."""
        return self.stub.CreateBooking(
            pb.CreateBookingRequest(
                event_id=event_id,
                user_id=user,
                ticket_count=count,
                idempotency_key=key,
                key_is_fresh=fresh,
            ),
            **call_as("gateway"),
        )

    def get(self, booking_id: str, user: str = "") -> pb.Booking:
        """Read a booking."""
        return self.stub.GetBooking(
            pb.GetBookingRequest(id=booking_id, user_id=user), **call_as("gateway")
        )

    def cancel(self, booking_id: str, user: str = "") -> pb.Booking:
        """Cancel as the buyer."""
        return self.stub.CancelBooking(
            pb.CancelBookingRequest(id=booking_id, user_id=user, reason="changed my mind"),
            **call_as("gateway"),
        )

    def decline(self, booking_id: str) -> pb.Booking:
        """Cancel as the payment worker."""
        return self.stub.CancelBooking(
            pb.CancelBookingRequest(id=booking_id, reason="no funds", payment_declined=True),
            **call_as("payment"),
        )

    def confirm(self, booking_id: str) -> pb.Booking:
        """Confirm as the payment worker."""
        return self.stub.ConfirmBooking(
            pb.ConfirmBookingRequest(id=booking_id), **call_as("payment")
        )

    def confirm_batch(self, *booking_ids: str) -> list[str]:
        """Confirm many as the payment worker; return the ids of those that are confirmed."""
        request = pb.BatchConfirmBookingsRequest()
        for booking_id in booking_ids:
            request.confirmations.add(id=booking_id, request_id="batched")
        answer = self.stub.BatchConfirmBookings(request, **call_as("payment"))
        return list(answer.confirmed_ids)

    def extend_hold(self, booking_id: str) -> pb.Booking:
        """Hold on, as the payment worker."""
        return self.stub.ExtendHold(pb.ExtendHoldRequest(id=booking_id), **call_as("payment"))

    def record_refund(self, booking_id: str) -> pb.Booking:
        """Say that the money went back, as the payment worker."""
        return self.stub.RecordRefund(pb.RecordRefundRequest(id=booking_id), **call_as("payment"))

    def tickets(
        self, booking_id: str, user: str = "", page_size: int = 0, after: int = 0
    ) -> pb.ListTicketsResponse:
        """List tickets as the gateway."""
        return self.stub.ListTickets(
            pb.ListTicketsRequest(
                booking_id=booking_id, user_id=user, page_size=page_size, after=after
            ),
            **call_as("gateway"),
        )

    def close_sale(self, event_id: str, version: int = 2) -> pb.Sale:
        """Close a sale."""
        return self.stub.CloseSale(
            pb.CloseSaleRequest(event_id=event_id, version=version), **call_as("event")
        )

    def remaining(self, event_id: str) -> int:
        """Return the tickets that are left."""
        answer = self.stub.GetAvailability(
            pb.GetAvailabilityRequest(event_ids=[event_id]), **call_as("event")
        )
        return answer.remaining[event_id]
