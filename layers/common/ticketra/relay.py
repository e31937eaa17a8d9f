"""The relay: brings committed messages from the outbox to RabbitMQ.

One task relays at a time; the others stand by. A message is marked after its confirm; a crash
between the two publishes it twice, which is harmless: a booking has one payment, and that moves by
conditional updates.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import psycopg

from ticketra import messages
from ticketra.amqp import BrokerAway
from ticketra.broker import Publication, Publisher
from ticketra.log import logger
from ticketra.outbox_store import PRUNE_BATCH_LIMIT, OutboxRow

STANDBY_INTERVAL_S = 1.0
SWEEP_INTERVAL_S = 0.2  # finds what was committed without a wake-up reaching this task
# Under load, many small batches cost the database and the broker more than the bookings do, so a
# small one is followed by a pause in which the next one grows. The first after a rest goes at once.
SMALL_BATCH = 200
LINGER_S = 0.02
BACK_OFF_MIN_S = 0.1
BACK_OFF_MAX_S = 2.0
PRUNE_INTERVAL_S = 60.0
OUTBOX_KEEP_S = 24 * 3600


class Outbox(Protocol):
    """What the relay needs of the outbox; see `outbox_store.OutboxStore`."""

    async def lead(self) -> bool: ...  # noqa: D102
    async def unpublished(self) -> list[OutboxRow]: ...  # noqa: D102
    async def mark_published(self, ids: set[str]) -> None: ...  # noqa: D102
    async def prune(self, keep_s: int) -> int: ...  # noqa: D102
    async def close(self) -> None: ...  # noqa: D102


class Relay:
    """Publishes what is unpublished, as long as this task has the lead.

    `source` names the publisher in the messages, as CloudEvents want it.
    """

    def __init__(
        self,
        store: Outbox,
        broker: Publisher,
        source: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._broker = broker
        self._source = source
        self._monotonic = monotonic
        self._wake = asyncio.Event()
        self._leads = False
        self._idle = False
        self._prune_at = 0.0
        self._back_off_s = BACK_OFF_MIN_S

    @property
    def leads(self) -> bool:
        """Whether this task is the one that publishes."""
        return self._leads

    def wake(self) -> None:
        """Say that something was committed."""
        self._idle = False
        self._wake.set()

    async def run(self) -> None:
        """Relay whenever this task can get the lead; never returns."""
        while True:
            try:
                self._leads = await self._store.lead()
                if self._leads:
                    await self._relay()
                await asyncio.sleep(STANDBY_INTERVAL_S)
            except (BrokerAway, psycopg.Error) as error:
                logger.warning("the relay pauses", extra={"error": str(error)})
                await asyncio.sleep(self._back_off_s)
                self._back_off_s = min(2 * self._back_off_s, BACK_OFF_MAX_S)

    async def flushed(self) -> None:
        """Return when nothing is left to publish, or when another task has the lead."""
        self.wake()
        while self._leads and not self._idle:  # noqa: ASYNC110 - asked once in a task's life
            await asyncio.sleep(SWEEP_INTERVAL_S / 4)

    async def close(self) -> None:
        """Give up the lead and the connections."""
        self._leads = False
        await self._broker.close()
        await self._store.close()

    async def publish_once(self) -> int:
        """Publish one batch, mark what is safe, and return how many messages are.

        Raises:
            BrokerAway: RabbitMQ is away.
            psycopg.Error: PostgreSQL is away, or another task took the lead.

        """
        rows = await self._store.unpublished()
        if not rows:
            return 0
        safe = await self._broker.publish([_publication(row, self._source) for row in rows])
        if safe:
            await self._store.mark_published(safe)
        if len(safe) < len(rows):
            logger.warning("messages were not taken over", extra={"count": len(rows) - len(safe)})
        return len(safe)

    async def _relay(self) -> None:
        while True:
            self._wake.clear()
            published = await self.publish_once()
            await self._prune()
            if published:
                self._back_off_s = BACK_OFF_MIN_S
                if published < SMALL_BATCH:
                    await asyncio.sleep(LINGER_S)
                continue
            self._idle = not self._wake.is_set()
            try:
                async with asyncio.timeout(SWEEP_INTERVAL_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _prune(self) -> None:
        if self._monotonic() < self._prune_at:
            return
        deleted = await self._store.prune(OUTBOX_KEEP_S)
        if deleted < PRUNE_BATCH_LIMIT:
            self._prune_at = self._monotonic() + PRUNE_INTERVAL_S


def _publication(row: OutboxRow, source: str) -> Publication:
    return Publication(
        row.routing_key,
        row.body.encode(),
        messages.properties(
            message_id=row.id,
            routing_key=row.routing_key,
            source=source,
            subject=row.subject,
            time=row.created_at,
        ),
        mandatory=row.routing_key in messages.NEEDED,
    )
