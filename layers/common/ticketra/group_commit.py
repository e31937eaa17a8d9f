"""Many small writes as few transactions: what is asked for during one goes into the next."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

BATCH_LIMIT = 500
# Under load, small batches cost more than the items in them, so they begin at least this far apart.
# The first after a rest goes at once.
PACE_S = 0.004


class _Waiting(NamedTuple, Generic[ItemT, ResultT]):
    item: ItemT
    result: "asyncio.Future[ResultT]"


class GroupCommit(Generic[ItemT, ResultT]):
    """Hands items to `write` in batches, one batch at a time, in the order of their arrival.

    `write` gets up to `limit` items and returns one result for each, in their order. What it raises
    is raised to each of them; but if one of several items may be to blame (`divides` says so of the
    error), each is written again on its own, so that only the bad one fails.
    """

    def __init__(
        self,
        write: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT]]],
        *,
        divides: Callable[[Exception], bool],
        limit: int = BATCH_LIMIT,
        pace_s: float = PACE_S,
    ) -> None:
        self._write = write
        self._divides = divides
        self._limit = limit
        self._pace_s = pace_s
        self._waiting: list[_Waiting[ItemT, ResultT]] = []
        self._writing: asyncio.Task[None] | None = None

    async def submit(self, item: ItemT) -> ResultT:
        """Have `item` written, and return its result."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[ResultT] = loop.create_future()
        self._waiting.append(_Waiting(item, result))
        if self._writing is None:
            self._writing = loop.create_task(self._write_all())
        return await result

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                next_at = loop.time() + self._pace_s
                batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
                await self._settle(batch)
                if len(self._waiting) < self._limit:
                    await asyncio.sleep(max(0.0, next_at - loop.time()))
        finally:
            self._writing = None

    async def _settle(self, batch: list[_Waiting[ItemT, ResultT]]) -> None:
        try:
            results = await self._write([waiting.item for waiting in batch])
            settled = list(zip(batch, results, strict=True))
        except Exception as error:  # noqa: BLE001 - it is raised again, to those who wait for it
            if len(batch) > 1 and self._divides(error):
                for waiting in batch:
                    await self._settle([waiting])
                return
            for waiting in batch:
                if not waiting.result.done():
                    waiting.result.set_exception(error)
            return
        for waiting, result in settled:
            if not waiting.result.done():
                waiting.result.set_result(result)
