"""Forgets messages that are too old to come again."""

import asyncio
from typing import Protocol

from payment.models import Outage
from ticketra.log import logger

# The broker gives a message back within hours at most; a dead letter may be replayed days later.
KEEP_S = 30 * 24 * 3600
PRUNE_INTERVAL_S = 60.0
PRUNE_BATCH_LIMIT = 1_000


class Inbox(Protocol):
    """What is kept of received messages: `payment.store.PaymentStore`."""

    async def prune_inbox(self, keep_s: int, limit: int) -> int:
        """Forget up to `limit` messages that came more than `keep_s` ago; return how many."""


async def prune_inbox(inbox: Inbox) -> None:
    """Prune in bounded batches, again and again; never returns."""
    while True:
        try:
            deleted = await inbox.prune_inbox(KEEP_S, PRUNE_BATCH_LIMIT)
        except Outage as error:
            logger.warning("the inbox is not pruned", extra={"reason": str(error)})
            deleted = 0
        if deleted < PRUNE_BATCH_LIMIT:
            await asyncio.sleep(PRUNE_INTERVAL_S)
