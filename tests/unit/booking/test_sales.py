"""What may become of a sale."""

import pytest

from booking.models import SaleTerms
from booking.sales import change_terms, close
from tests.unit.booking.builders import sale
from ticketra.errors import Conflict


def terms(capacity: int) -> SaleTerms:
    return SaleTerms(capacity, 2500, "EUR", None, None, 0, 0)


def test_a_version_that_is_not_newer_changes_nothing() -> None:
    assert change_terms(sale(version=3), 3, terms(200)) is None
    assert close(sale(version=3), 3) is None


def test_more_capacity_adds_stock() -> None:
    changed = change_terms(sale(remaining=10), 2, terms(105))
    assert changed is not None
    assert (changed.capacity, changed.remaining, changed.version) == (105, 15, 2)
    assert changed.stock_version == 0


def test_stock_that_comes_back_starts_a_new_stock_version() -> None:
    changed = change_terms(sale(remaining=0), 2, terms(101))
    assert changed is not None
    assert (changed.remaining, changed.stock_version) == (1, 1)


def test_capacity_can_fall_to_what_is_taken_and_no_further() -> None:
    changed = change_terms(sale(remaining=10), 2, terms(90))
    assert changed is not None
    assert changed.remaining == 0
    with pytest.raises(Conflict) as refused:
        change_terms(sale(remaining=10), 2, terms(89))
    assert refused.value.code == "capacity_below_sold"


def test_a_closed_sale_stays_closed() -> None:
    closed = close(sale(), 2)
    assert closed is not None
    assert closed.closed
    assert close(closed, 3) is None
    with pytest.raises(Conflict) as refused:
        change_terms(closed, 3, terms(200))
    assert refused.value.code == "sale_closed"
