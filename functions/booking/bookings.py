"""What the booking task does for its callers, in its own words: no gRPC, no SQL."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import timedelta

from booking import sales, transitions
from booking.bodies import sale_closed
from booking.booking_store import BookingStore
from booking.changes import Changes, existing
from booking.decisions import booking_not_found, event_not_found, sold_out
from booking.groups import Wish
from booking.markers import SoldOutMarkers
from booking.models import (
    CONFIRMED,
    Accepted,
    Booking,
    CreateRequest,
    OutboxMessage,
    Sale,
    SaleTerms,
)
from booking.sale_store import SaleStore
from booking.validation import (
    CAPACITY_LIMIT,
    CONFIRMATIONS_LIMIT,
    PAGE_SIZE_DEFAULT,
    PAGE_SIZE_LIMIT,
    TICKET_COUNT_LIMIT,
    Problems,
    is_uuid,
)
from booking.writer import Writer
from ticketra.errors import Refusal
from ticketra.ids import IdSource
from ticketra.messages import SALE_CLOSED

VERSION_LIMIT = 2**63 - 1


class Bookings:
    """Holds, sells and gives back tickets. Every refusal is a `ticketra.errors.Refusal`.

    A hold whose payment is in flight is extended by `hold_ttl`, up to `hold_max` after it was made.
    """

    def __init__(
        self,
        writer: Writer,
        bookings: BookingStore,
        changes: Changes,
        sale_store: SaleStore,
        *,
        markers: SoldOutMarkers,
        mint_id: IdSource,
        hold_ttl: timedelta,
        hold_max: timedelta,
        on_commit: Callable[[], None],
        on_close: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._bookings = bookings
        self._changes = changes
        self._sales = sale_store
        self._markers = markers
        self._mint_id = mint_id
        self._hold_ttl = hold_ttl
        self._hold_max = hold_max
        self._on_commit = on_commit
        self._on_close = on_close

    async def create(
        self,
        event_id: str,
        user_id: str,
        ticket_count: int,
        key: str,
        *,
        key_is_fresh: bool,
        request_id: str,
        wait_s: float,
    ) -> tuple[Booking, bool]:
        """Hold tickets, and return the booking and whether it had been made before.

        Raises:
            Refusal: as in the API: `sold_out`, `not_enough_tickets`, `event_busy` and so on.

        """
        problems = Problems()
        problems.event_id(event_id)
        problems.user_id(user_id)
        problems.within("ticket_count", ticket_count, 1, TICKET_COUNT_LIMIT)
        problems.key(key)
        problems.refuse()
        # A key may have made a booking before, and that answer comes before "sold out".
        if (not key or key_is_fresh) and self._markers.is_sold_out(event_id):
            raise sold_out()
        request = CreateRequest(
            self._mint_id(),
            event_id,
            user_id,
            ticket_count,
            key,
            key_is_fresh,
            request_hash(event_id, ticket_count),
            request_id,
        )
        outcome = await self._writer.submit(request, wait_s)
        if isinstance(outcome, Refusal):
            raise outcome
        return outcome.booking, not isinstance(outcome, Accepted)

    async def get(self, booking_id: str, user_id: str) -> Booking:
        """Return a booking; with a `user_id`, only that user's.

        Raises:
            NotFound: `booking_not_found`.

        """
        found = await existing(self._bookings, booking_id)
        if user_id and found.user_id != user_id:
            raise booking_not_found()
        return found

    async def list_of_user(
        self, user_id: str, page_size: int, cursor: str
    ) -> tuple[list[Booking], str]:
        """Return a page of a user's bookings, newest first, and the cursor of the next one.

        The cursor is the id of the last booking of the page before.
        """
        problems = Problems()
        problems.user_id(user_id)
        problems.within("page_size", page_size, 0, PAGE_SIZE_LIMIT)
        if cursor and not is_uuid(cursor):
            problems.add("cursor", "must be the cursor that the page before named")
        problems.refuse()
        limit = page_size or PAGE_SIZE_DEFAULT
        found = await self._bookings.of_user(user_id, cursor or None, limit + 1)
        page = found[:limit]
        return page, page[-1].id if len(found) > limit else ""

    async def cancel(
        self,
        booking_id: str,
        user_id: str,
        reason: str,
        *,
        payment_declined: bool,
        request_id: str,
    ) -> Booking:
        """Give the tickets back, because the buyer wishes so or the payment was declined.

        Raises:
            NotFound: `booking_not_found`.
            Conflict: `booking_expired` for a buyer, `booking_confirmed` for a declined payment.

        """
        problems = Problems()
        problems.reason(reason)
        problems.refuse()
        booking = await self.get(booking_id, user_id)
        decision = transitions.decline if payment_declined else transitions.cancel
        return await self._changes.with_sale(
            booking, lambda present, *_: decision(present, reason), request_id
        )

    async def confirm(self, booking_id: str, request_id: str) -> Booking:
        """Sell the held tickets; an EXPIRED booking takes them again, if they can be had.

        Raises:
            NotFound: `booking_not_found`.
            Conflict: `tickets_gone`, `booking_cancelled`.

        """
        return await self._changes.together(booking_id, transitions.confirm, request_id)

    async def confirm_batch(self, confirmations: Sequence[tuple[str, str]]) -> list[str]:
        """Sell the held tickets of those bookings that can be confirmed in one transaction.

        Args:
            confirmations: the id of each booking, and the id of the request that asks for it.

        Returns:
            The ids of those that are confirmed; each of the others has to be asked for alone.

        Raises:
            Invalid: none, or more than CONFIRMATIONS_LIMIT.

        """
        problems = Problems()
        problems.within("confirmations", len(confirmations), 1, CONFIRMATIONS_LIMIT)
        problems.refuse()
        return await self._changes.batch(
            [
                Wish(booking_id, transitions.confirm, request_id)
                for booking_id, request_id in confirmations
            ],
            CONFIRMED,
        )

    async def record_refund(self, booking_id: str, request_id: str) -> Booking:
        """Note that the money of an ended booking went back.

        Raises:
            NotFound: `booking_not_found`.
            Conflict: `booking_confirmed`, `booking_pending`.

        """
        return await self._changes.together(
            booking_id, lambda present, *_: transitions.refund(present), request_id
        )

    async def extend_hold(self, booking_id: str) -> Booking:
        """Hold the tickets of a PENDING booking for longer, because its payment is in flight.

        Returns the booking as it is then; what is not PENDING is left as it is.

        Raises:
            NotFound: `booking_not_found`.

        """
        booking = await self.get(booking_id, "")
        return await self._bookings.extend_hold(
            booking,
            lambda present, now: transitions.extended_hold(
                present, now, hold_ttl=self._hold_ttl, hold_max=self._hold_max
            ),
        )

    async def put_sale(self, event_id: str, version: int, terms: SaleTerms) -> Sale:
        """Open an event's sale or change its terms; an old version changes nothing.

        Raises:
            Conflict: `capacity_below_sold`, `sale_closed`.

        """
        _check_terms(event_id, version, terms)
        opened = await self._sales.open(event_id, version, terms)
        if opened is not None:
            return opened
        changed = await self._sales.change(
            event_id, lambda sale: sales.change_terms(sale, version, terms)
        )
        return _existing(changed)

    async def close_sale(self, event_id: str, version: int, request_id: str) -> Sale:
        """End an event's sale for good and tell the world.

        Raises:
            NotFound: `event_not_found`.

        """
        problems = Problems()
        problems.event_id(event_id)
        problems.within("version", version, 1, VERSION_LIMIT)
        problems.refuse()
        message = OutboxMessage(
            self._mint_id(), event_id, SALE_CLOSED, sale_closed(event_id, version, request_id)
        )
        closed = await self._sales.change(
            event_id, lambda sale: sales.close(sale, version), message
        )
        self._on_commit()
        self._on_close()
        return _existing(closed)

    async def availability(self, event_ids: list[str]) -> dict[str, int]:
        """Return the tickets that are left of each event that has a sale."""
        problems = Problems()
        problems.event_ids(event_ids)
        problems.refuse()
        return await self._sales.remaining(event_ids)


def request_hash(event_id: str, ticket_count: int) -> bytes:
    """Return a SHA-256 of what a booking asks for; user and key are its scope, not its content."""
    return hashlib.sha256(f"{event_id}\n{ticket_count}".encode()).digest()


def _check_terms(event_id: str, version: int, terms: SaleTerms) -> None:
    problems = Problems()
    problems.event_id(event_id)
    problems.within("version", version, 1, VERSION_LIMIT)
    problems.within("terms.capacity", terms.capacity, 1, CAPACITY_LIMIT)
    problems.price(terms.price_amount_minor, terms.price_currency)
    problems.within("terms.max_per_booking", terms.max_per_booking, 0, TICKET_COUNT_LIMIT)
    problems.within("terms.max_per_user", terms.max_per_user, 0, CAPACITY_LIMIT)
    start, end = terms.sales_start, terms.sales_end
    if start is not None and end is not None and end <= start:
        problems.add("terms.sales_end", "must be after sales_start")
    problems.refuse()


def _existing(sale: Sale | None) -> Sale:
    if sale is None:
        raise event_not_found()
    return sale
