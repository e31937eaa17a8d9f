"""The built-in payment provider: pays up to five tickets and declines more.

It keeps its charges apart from the worker's payments, in transactions of its own, as a bank would:
a worker that dies between the charge and its own commit leaves the charge behind. For trials it can
be told to behave badly, in `mock_bank_behaviour` (`make bank`).
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from random import Random
from typing import NamedTuple
from uuid import UUID

from payment.models import Outage, UnexpectedAnswer
from payment.postgres import connected, divides
from payment.provider import PROVIDER_DEADLINE_S, Charge, ChargeStatus
from ticketra.database import Database
from ticketra.group_commit import GroupCommit

PAID_TICKETS_LIMIT = 5
DECLINED_REASON = "insufficient funds or suspected fraud"
BEHAVIOUR_TTL_S = 0.5  # what the bank was told holds from then on, at the latest

# Asked again, a charge answers as the first time: the first answer is the one that is kept.
_CHARGE = """
    INSERT INTO mock_bank_charges
        (booking_id, ticket_count, amount_minor, currency, status, reason, answered_at)
    SELECT booking_id, ticket_count, amount_minor, currency, status, reason,
           now() + make_interval(secs => late_ms / 1000.0)
    FROM unnest(%b::uuid[], %b::integer[], %b::bigint[], %b::text[], %b::text[], %b::text[],
                %b::integer[])
        AS asked (booking_id, ticket_count, amount_minor, currency, status, reason, late_ms)
    ORDER BY booking_id
    ON CONFLICT (booking_id) DO UPDATE SET asked = mock_bank_charges.asked + 1
    RETURNING booking_id, status, reason, answered_at > now()
"""
_LOOK_UP = """
    SELECT booking_id, status, reason, answered_at > now()
    FROM mock_bank_charges WHERE booking_id = ANY(%b::uuid[])
"""
_REFUND = """
    UPDATE mock_bank_charges SET status = 'refunded', refunded_at = now()
    WHERE booking_id = ANY(%b::uuid[]) AND status = 'paid'
"""
_BEHAVIOUR = "SELECT behaviour, amount FROM mock_bank_behaviour"


class Behaviour(StrEnum):
    """What the bank can be told to do to charges."""

    SLOW = "slow"  # answers after so many ms
    TIME_OUT = "time_out"  # so many of 100 are made, but no answer comes
    FAIL = "fail"  # so many of 100 fail; every second one of them is made all the same
    TWICE = "twice"  # so many of 100 reach the bank twice, and are answered twice
    LATE = "late"  # is decided after so many ms; until then the answer is "pending"


class _Wish(NamedTuple):
    booking_id: UUID
    ticket_count: int
    amount_minor: int
    currency: str
    late_ms: int


class MockBank:
    """A `payment.provider.Provider` that lives in PostgreSQL; `rng` decides whom a fault hits.

    Every method raises payment.models.Outage when the database is away.
    """

    def __init__(
        self,
        database: Database,
        rng: Random,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._rng = rng
        self._monotonic = monotonic
        self._sleep = sleep
        self._charges = GroupCommit(self._charge, divides=divides)
        self._look_ups = GroupCommit(self._look_up, divides=divides)
        self._refunds = GroupCommit(self._refund, divides=divides)
        self._told: Mapping[Behaviour, int] = {}
        self._told_at = -math.inf
        self._asking = asyncio.Lock()

    async def charge(
        self, *, booking_id: UUID, ticket_count: int, amount_minor: int, currency: str
    ) -> Charge:
        """Pay up to PAID_TICKETS_LIMIT tickets, whatever they cost; decline more."""
        told = await self._behaviour()
        wish = _Wish(booking_id, ticket_count, amount_minor, currency, told.get(Behaviour.LATE, 0))
        if not told:
            return await self._charges.submit(wish)
        await self._sleep(told.get(Behaviour.SLOW, 0) / 1000)
        fails = self._hits(told, Behaviour.FAIL)
        if fails and self._rng.randrange(2):
            raise Outage("the mock bank failed before it charged")
        charge = await self._charges.submit(wish)
        if self._hits(told, Behaviour.TWICE):
            charge = await self._charges.submit(wish)
        if fails:
            raise Outage("the mock bank failed after it charged")
        if self._hits(told, Behaviour.TIME_OUT):
            await self._sleep(2 * PROVIDER_DEADLINE_S)
            raise Outage("the mock bank did not answer")
        return charge

    async def look_up(self, booking_id: UUID) -> Charge | None:
        """Return the charge of a booking, None if none was ever asked for."""
        return await self._look_ups.submit(booking_id)

    async def refund(self, booking_id: UUID) -> Charge:
        """Give the money back; what was refunded or declined before stays as it is."""
        charge = await self._refunds.submit(booking_id)
        if charge is None:
            raise UnexpectedAnswer(f"the mock bank has no charge of booking {booking_id}")
        return charge

    def _hits(self, told: Mapping[Behaviour, int], behaviour: Behaviour) -> bool:
        return self._rng.randrange(100) < told.get(behaviour, 0)

    async def _behaviour(self) -> Mapping[Behaviour, int]:
        async with self._asking:  # whoever comes meanwhile waits for the answer as well
            if self._monotonic() - self._told_at >= BEHAVIOUR_TTL_S:
                self._told_at = self._monotonic()
                async with connected(self._database) as connection:
                    cursor = await connection.execute(_BEHAVIOUR)
                    self._told = {Behaviour(row[0]): row[1] for row in await cursor.fetchall()}
        return self._told

    async def _charge(self, wishes: Sequence[_Wish]) -> list[Charge]:
        decisions = [decide(wish.ticket_count) for wish in wishes]
        async with connected(self._database) as connection:
            cursor = await connection.execute(
                _CHARGE,
                [
                    [wish.booking_id for wish in wishes],
                    [wish.ticket_count for wish in wishes],
                    [wish.amount_minor for wish in wishes],
                    [wish.currency for wish in wishes],
                    [decision.status.value for decision in decisions],
                    [decision.reason for decision in decisions],
                    [wish.late_ms for wish in wishes],
                ],
            )
            charges = {row[0]: _charge_of(*row[1:]) for row in await cursor.fetchall()}
        return [charges[wish.booking_id] for wish in wishes]

    async def _look_up(self, booking_ids: Sequence[UUID]) -> list[Charge | None]:
        async with connected(self._database) as connection:
            cursor = await connection.execute(_LOOK_UP, [list(booking_ids)])
            charges = {row[0]: _charge_of(*row[1:]) for row in await cursor.fetchall()}
        return [charges.get(booking_id) for booking_id in booking_ids]

    async def _refund(self, booking_ids: Sequence[UUID]) -> list[Charge | None]:
        async with connected(self._database) as connection:
            await connection.execute(_REFUND, [list(booking_ids)])
        return await self._look_up(booking_ids)


def decide(ticket_count: int) -> Charge:
    """Return the bank's answer for a number of tickets."""
    if ticket_count <= PAID_TICKETS_LIMIT:
        return Charge(ChargeStatus.PAID)
    return Charge(ChargeStatus.DECLINED, DECLINED_REASON)


def _charge_of(status: str, reason: str, is_pending: bool) -> Charge:  # noqa: FBT001 - a row
    if is_pending:
        return Charge(ChargeStatus.PENDING)
    return Charge(ChargeStatus(status), reason)
