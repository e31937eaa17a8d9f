"""Transitions that need their sale: those of one event at the same time are one transaction."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from booking.groups import Wish
from booking.models import Booking
from ticketra.errors import Refusal
from ticketra.group_commit import GroupCommit

Outcome = Booking | Refusal | None


class SaleGroups:
    """Hands wishes to `change` in groups, of each event one group at a time.

    `change` returns one outcome for each wish. What it raises is raised to all of the group; but if
    one of them may be to blame (`divides`), each is tried again on its own.
    """

    def __init__(
        self,
        change: Callable[[str, Sequence[Wish]], Awaitable[Sequence[Outcome]]],
        *,
        divides: Callable[[Exception], bool],
    ) -> None:
        self._change = change
        self._divides = divides
        self._groups: dict[str, GroupCommit[Wish, Outcome]] = {}
        self._waiting: Counter[str] = Counter()

    async def submit(self, event_id: str, wish: Wish) -> Outcome:
        """Have `wish` done, and return what came of it."""
        group = self._groups.get(event_id)
        if group is None:
            group = GroupCommit(partial(self._change, event_id), divides=self._divides)
            self._groups[event_id] = group
        self._waiting[event_id] += 1
        try:
            return await group.submit(wish)
        finally:
            self._waiting[event_id] -= 1
            if not self._waiting[event_id]:
                del self._waiting[event_id], self._groups[event_id]
