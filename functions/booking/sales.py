"""What may become of a sale: pure functions of its present row.

Each returns the sale as it shall be, or None where nothing changes.
"""

from booking.models import Sale, SaleTerms
from ticketra.errors import Conflict


def change_terms(sale: Sale, version: int, terms: SaleTerms) -> Sale | None:
    """Put new terms in force; a version that is not above the stored one changes nothing.

    Raises:
        Conflict: `sale_closed`, or `capacity_below_sold`: more tickets are held or sold.

    """
    if version <= sale.version:
        return None
    if sale.closed:
        raise Conflict("sale_closed", "The sale is closed and cannot be changed.")
    taken = sale.capacity - sale.remaining
    if terms.capacity < taken:
        raise Conflict(
            "capacity_below_sold",
            f"{taken} tickets are held or sold: the capacity cannot be less.",
        )
    remaining = terms.capacity - taken
    reopens = sale.remaining == 0 and remaining > 0
    return Sale(
        sale.event_id,
        version,
        terms.capacity,
        remaining,
        *terms[1:],
        closed=False,
        stock_version=sale.stock_version + int(reopens),
    )


def close(sale: Sale, version: int) -> Sale | None:
    """End a sale for good; a version that is not above the stored one changes nothing."""
    if version <= sale.version or sale.closed:
        return None
    return sale._replace(version=version, closed=True)
