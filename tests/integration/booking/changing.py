"""The booking task's logic as far as it changes bookings that there are."""

from typing import Any

from booking.booking_store import BookingStore
from booking.bookings import Bookings
from booking.changes import Changes
from booking.group_store import GroupStore
from booking.sale_group_store import SaleGroupStore
from ticketra.database import Database
from ticketra.ids import IdSource


def changing_bookings(
    database: Database,
    mint_id: IdSource,
    *,
    groups: GroupStore | None = None,
    sale_groups: SaleGroupStore | None = None,
) -> Bookings:
    """Return bookings that can be changed, but not made, with the given stores."""
    nothing: Any = None
    store = BookingStore(database, mint_id)
    changes = Changes(
        store,
        groups or GroupStore(database, mint_id),
        sale_groups or SaleGroupStore(database, mint_id),
        lambda: None,
    )
    return Bookings(
        nothing,
        store,
        changes,
        nothing,
        markers=nothing,
        mint_id=mint_id,
        hold_ttl=nothing,
        hold_max=nothing,
        on_commit=lambda: None,
        on_close=lambda: None,
    )
