"""The orders database: what the tests look up there, and how the worker's code reaches it."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from pydantic import SecretStr

from migrate.settings import MigrateSettings
from payment.models import State
from payment.worker import SCHEMA
from tests.integration import servers
from ticketra import database as orders_database

ROLE_PASSWORD = "payment-role-of-the-tests"


@dataclass
class Database:
    """The orders database; `admin` sees everything, `role` is what the worker logs in with."""

    server: servers.Server

    def admin(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            f"{self.server.url}/orders",
            user=self.server.username,
            password=self.server.password,
            autocommit=True,
        )

    def role(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            f"{self.server.url}/orders", user="payment", password=ROLE_PASSWORD, autocommit=True
        )

    def state(self, booking_id: UUID) -> State | None:
        state: str | None = self._one(
            "SELECT state FROM payment.payments WHERE booking_id = %s", booking_id
        )
        return None if state is None else State(state)

    def reason(self, booking_id: UUID) -> object:
        return self._one("SELECT reason FROM payment.payments WHERE booking_id = %s", booking_id)

    def charge(self, booking_id: UUID) -> object:
        return self._one(
            "SELECT status FROM payment.mock_bank_charges WHERE booking_id = %s", booking_id
        )

    def is_received(self, message_id: str) -> bool:
        return bool(self._one("SELECT true FROM payment.inbox WHERE message_id = %s", message_id))

    def attempts(self, booking_id: UUID) -> list[tuple[str, str | None, str | None]]:
        """Return where each attempt of a payment began and ended, and why it went no further."""
        return self._all(
            "SELECT began_in, ended_in, failure FROM payment.attempts WHERE booking_id = %s"
            " ORDER BY id",
            booking_id,
        )

    def told(self, booking_id: UUID) -> list[str]:
        """Return the routing keys of what the world is told of a booking's payment."""
        return [routing_key for routing_key, _ in self._told(booking_id)]

    def told_in_full(self, booking_id: UUID) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self._told(booking_id)]

    def _told(self, booking_id: UUID) -> list[Any]:
        return self._all(
            "SELECT routing_key, body FROM payment.outbox WHERE subject = %s::text"
            " ORDER BY position",
            booking_id,
        )

    def unpublished(self) -> int:
        """Return how many messages are still to be published."""
        with self.admin() as connection:
            row = connection.execute(
                "SELECT count(*) FROM payment.outbox WHERE published_at IS NULL"
            ).fetchone()
        assert row is not None
        count: int = row[0]
        return count

    def states(self, booking_ids: Sequence[UUID]) -> Counter[str]:
        """Return how many of the payments are in which state."""
        rows = self._all(
            "SELECT state FROM payment.payments WHERE booking_id = ANY(%s)", list(booking_ids)
        )
        return Counter(row[0] for row in rows)

    def open_attempts(self, booking_ids: Sequence[UUID]) -> int:
        """Return how many attempts at the payments have not ended."""
        count: int = self._one(
            "SELECT count(*) FROM payment.attempts WHERE ended_at IS NULL AND booking_id = ANY(%s)",
            list(booking_ids),
        )
        return count

    def asked(self, booking_id: UUID) -> object:
        """Return how often the bank was asked for a charge."""
        return self._one(
            "SELECT asked FROM payment.mock_bank_charges WHERE booking_id = %s", booking_id
        )

    @contextmanager
    def bank_behaves(self, **behaviour: int) -> Iterator[None]:
        """Tell the mock bank how to behave."""
        with self.role() as connection:
            for name, amount in behaviour.items():
                connection.execute(
                    "INSERT INTO payment.mock_bank_behaviour VALUES (%s, %s)", [name, amount]
                )
            try:
                yield
            finally:
                connection.execute("DELETE FROM payment.mock_bank_behaviour")

    def _all(self, query: LiteralString, argument: object) -> list[Any]:
        with self.admin() as connection:
            return connection.execute(query, [argument]).fetchall()

    def _one(self, query: LiteralString, argument: object) -> Any:
        with self.admin() as connection:
            row = connection.execute(query, [argument]).fetchone()
        return None if row is None else row[0]


@asynccontextmanager
async def connected(server: servers.Server) -> AsyncIterator[orders_database.Database]:
    """Connect as the worker does, and wait until the database is there."""
    database = orders_database.Database(
        f"{server.url}/orders", "payment", ROLE_PASSWORD, name="test", schema=SCHEMA
    )
    await database.open()
    watch = asyncio.create_task(database.watch())
    async with asyncio.timeout(servers.START_LIMIT_S):
        while not database.available:  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0.01)
    try:
        yield database
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await database.close()


def migrate_settings(server: servers.Server) -> MigrateSettings:
    secret = SecretStr(ROLE_PASSWORD)
    return MigrateSettings(
        postgres_url=server.url,
        postgres_username=server.username,
        postgres_password=SecretStr(server.password),
        postgres_identity_username="identity",
        postgres_identity_password=secret,
        postgres_booking_username="booking",
        postgres_booking_password=secret,
        postgres_payment_username="payment",
        postgres_payment_password=secret,
        mongodb_url="mongodb://not-used",
        mongodb_event_username="event",
        mongodb_event_password=secret,
    )
