from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from event.models import Event, Money
from event.ports import Sale
from event.sales import SaleClient
from tests.unit.common.support import CREDENTIAL, Running, running_booking
from ticketra import errors, rpc
from ticketra.booking_client import BookingClient

EVENT = Event(
    id="0" * 24,
    title="Concert",
    description=None,
    category=None,
    location="Harbiye",
    date=datetime(2030, 7, 20, 21, tzinfo=UTC),
    total_tickets=100,
    price=Money(amount_minor=1500, currency="EUR"),
    sales_start=datetime(2030, 1, 1, 0, 0, 0, 5000, tzinfo=UTC),
    sales_end=datetime(2030, 7, 20, tzinfo=UTC),
    max_per_booking=6,
    max_per_user=10,
    status="SCHEDULED",
    organizer_id="someone",
    version=3,
    created_at=datetime(2029, 1, 1, tzinfo=UTC),
    updated_at=datetime(2029, 1, 1, tzinfo=UTC),
)


@pytest.fixture
def booking() -> Iterator[Running]:
    with running_booking() as running:
        yield running


@pytest.fixture
def sales(booking: Running) -> Iterator[SaleClient]:
    client = BookingClient(
        booking.endpoint, caller="event", load_credential=lambda: CREDENTIAL, deadline_s=3.0
    )
    yield SaleClient(client)
    client.close()


def test_put_sends_the_terms(sales: SaleClient, booking: Running) -> None:
    left = sales.put(EVENT, request_id="r-1")

    call = booking.service.calls[0]
    terms = call.request.terms
    assert left == Sale(version=3, remaining=100, closed=False)
    assert (call.request.event_id, call.request.version) == (EVENT.id, 3)
    assert (terms.capacity, terms.max_per_booking, terms.max_per_user) == (100, 6, 10)
    assert (terms.price.amount_minor, terms.price.currency) == (1500, "EUR")
    assert terms.sales_start.ToDatetime(tzinfo=UTC) == EVENT.sales_start
    assert terms.sales_end.ToDatetime(tzinfo=UTC) == EVENT.sales_end
    assert (call.metadata[rpc.CALLER_KEY], call.metadata[rpc.REQUEST_ID_KEY]) == ("event", "r-1")


def test_terms_that_do_not_apply_are_absent(sales: SaleClient, booking: Running) -> None:
    bare = replace(
        EVENT, price=None, sales_start=None, sales_end=None, max_per_booking=None, max_per_user=None
    )

    sales.put(bare, request_id="r-1")

    terms = booking.service.calls[0].request.terms
    assert not any(terms.HasField(name) for name in ("price", "sales_start", "sales_end"))
    assert (terms.max_per_booking, terms.max_per_user) == (0, 0)


def test_an_older_version_changes_nothing(sales: SaleClient) -> None:
    sales.put(EVENT, request_id="r-1")

    older = sales.put(replace(EVENT, version=2, total_tickets=5), request_id="r-2")

    assert older == Sale(version=3, remaining=100, closed=False)


def test_close_sends_the_version(sales: SaleClient, booking: Running) -> None:
    sales.put(EVENT, request_id="r-1")

    closed = sales.close(replace(EVENT, version=4), request_id="r-2")

    call = booking.service.calls[-1]
    assert closed == Sale(version=4, remaining=100, closed=True)
    assert (call.method, call.request.event_id, call.request.version) == ("CloseSale", EVENT.id, 4)
    assert call.metadata[rpc.REQUEST_ID_KEY] == "r-2"


def test_an_event_without_a_sale_has_none_to_close(sales: SaleClient) -> None:
    assert sales.close(EVENT, request_id="r-1") is None


def test_remaining_leaves_out_events_without_a_sale(sales: SaleClient) -> None:
    sales.put(EVENT, request_id="r-1")

    assert sales.remaining([EVENT.id, "f" * 24], request_id="r-2") == {EVENT.id: 100}


def test_an_absent_service_is_unavailable(sales: SaleClient, booking: Running) -> None:
    booking.stop()

    with pytest.raises(errors.Unavailable):
        sales.remaining([EVENT.id], request_id="r-1")
