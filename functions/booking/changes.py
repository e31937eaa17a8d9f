"""Brings bookings from state to state: with others in one transaction, or alone.

A change that moves no stock goes with all that come at once, one that moves stock with those of its
sale. What a group leaves out, because others have it locked or it is too large, goes alone.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

from booking.booking_store import BookingStore, StateChanged
from booking.decisions import booking_not_found, busy
from booking.group_store import ONE_MAY_BE_TO_BLAME, GroupStore, one_may_be_to_blame
from booking.groups import Decision, Wish
from booking.models import PENDING, Booking
from booking.sale_group_store import SaleGroupStore
from booking.sale_groups import Outcome, SaleGroups
from booking.transitions import SaleNeeded
from booking.turns import Turns
from booking.validation import is_uuid
from ticketra.errors import Refusal
from ticketra.group_commit import GroupCommit
from ticketra.log import logger

STATE_CHANGE_ATTEMPTS = 3


class Changes:
    """Changes bookings; `on_commit` is called when there may be something to publish."""

    def __init__(
        self,
        bookings: BookingStore,
        groups: GroupStore,
        sale_groups: SaleGroupStore,
        on_commit: Callable[[], None],
    ) -> None:
        self._bookings = bookings
        self._group_store = groups
        self._groups: GroupCommit[Wish, Booking | None] = GroupCommit(
            self._change_group, divides=one_may_be_to_blame
        )
        self._sale_group_store = sale_groups
        self._sale_groups = SaleGroups(self._change_sale_group, divides=one_may_be_to_blame)
        self._turns = Turns()
        self._on_commit = on_commit

    async def together(self, booking_id: str, decision: Decision, request_id: str) -> Booking:
        """Change a booking in one transaction with others, or otherwise where that cannot be.

        Raises:
            NotFound: `booking_not_found`.
            Refusal: what `decision` refuses with.

        """
        if is_uuid(booking_id):
            changed = await self._groups.submit(Wish(booking_id, decision, request_id))
            if changed is not None:
                return changed
        booking = await existing(self._bookings, booking_id)
        if booking.status == PENDING:  # most probably it was locked in that moment
            with suppress(SaleNeeded):
                return await self._alone(booking, decision, request_id, lock_sale=False)
        return await self.with_sale(booking, decision, request_id)

    async def with_sale(self, booking: Booking, decision: Decision, request_id: str) -> Booking:
        """Change a booking together with others of its sale, or alone where that cannot be.

        Raises:
            Refusal: what `decision` refuses with.

        """
        wish = Wish(booking.id, decision, request_id)
        outcome = await self._sale_groups.submit(booking.event_id, wish)
        if isinstance(outcome, Refusal):
            raise outcome
        if outcome is not None:
            return outcome
        return await self._alone(booking, decision, request_id, lock_sale=True)

    async def batch(self, wishes: Sequence[Wish], status: str) -> list[str]:
        """Change what can be changed in one transaction; return the ids of what has `status` then.

        Each of the others has to be asked for alone.
        """
        possible = [wish for wish in wishes if is_uuid(wish.booking_id)]
        try:
            changed = await self._change_group(possible)
        except ONE_MAY_BE_TO_BLAME as error:
            extra = {"size": len(possible), "error": str(error)}
            logger.warning("a batch was refused", extra=extra)
            return []
        return [
            wish.booking_id
            for wish, booking in zip(possible, changed, strict=True)
            if booking is not None and booking.status == status
        ]

    async def _change_group(self, wishes: Sequence[Wish]) -> list[Booking | None]:
        changed = await self._group_store.change(wishes)
        self._on_commit()
        return changed

    async def _change_sale_group(self, event_id: str, wishes: Sequence[Wish]) -> list[Outcome]:
        async with self._turns.take(event_id):
            outcomes = await self._sale_group_store.change(event_id, wishes)
        self._on_commit()
        return outcomes

    async def _alone(
        self, booking: Booking, decision: Decision, request_id: str, *, lock_sale: bool
    ) -> Booking:
        for _ in range(STATE_CHANGE_ATTEMPTS):
            try:
                async with self._turns.take(booking.event_id):
                    changed, transition = await self._bookings.change(
                        booking, decision, request_id, lock_sale=lock_sale
                    )
            except StateChanged:
                continue
            if transition is not None:
                self._on_commit()
                if transition.refusal is not None:
                    raise transition.refusal
            return changed
        raise busy()


async def existing(bookings: BookingStore, booking_id: str) -> Booking:
    """Return the booking with this id.

    Raises:
        NotFound: `booking_not_found`.

    """
    found = await bookings.find(booking_id) if is_uuid(booking_id) else None
    if found is None:
        raise booking_not_found()
    return found
