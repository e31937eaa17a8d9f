"""Sales, kept by the booking service and reached over gRPC."""

from collections.abc import Sequence
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from event.models import Event
from event.ports import Sale
from ticketra.booking.v1 import booking_pb2
from ticketra.booking.v1.booking_pb2 import (
    CloseSaleRequest,
    GetAvailabilityRequest,
    Money,
    PutSaleRequest,
    SaleTerms,
)
from ticketra.booking_client import BookingClient
from ticketra.errors import NotFound


class SaleClient:
    """The event function's side of the booking service; see `event.ports.Sales`."""

    def __init__(self, client: BookingClient) -> None:
        self._client = client

    def put(self, event: Event, *, request_id: str) -> Sale:
        """Open or change the sale of `event`; an older version changes nothing."""
        request = PutSaleRequest(event_id=event.id, version=event.version, terms=_terms(event))
        sale = self._client.call(lambda stub: stub.PutSale, request, request_id=request_id)
        return _sale(sale)

    def close(self, event: Event, *, request_id: str) -> Sale | None:
        """End the sale of `event`; an older version changes nothing. None: it has none."""
        request = CloseSaleRequest(event_id=event.id, version=event.version)
        try:
            sale = self._client.call(lambda stub: stub.CloseSale, request, request_id=request_id)
        except NotFound:
            return None
        return _sale(sale)

    def remaining(self, event_ids: Sequence[str], *, request_id: str) -> dict[str, int]:
        """Return the tickets left of up to 100 events."""
        request = GetAvailabilityRequest(event_ids=event_ids)
        answer = self._client.call(
            lambda stub: stub.GetAvailability, request, request_id=request_id
        )
        return dict(answer.remaining)


def _sale(sale: booking_pb2.Sale) -> Sale:
    return Sale(sale.version, sale.remaining, sale.closed)


def _terms(event: Event) -> SaleTerms:
    price = event.price
    return SaleTerms(
        capacity=event.total_tickets,
        price=None if price is None else Money(**price.model_dump()),
        sales_start=_timestamp(event.sales_start),
        sales_end=_timestamp(event.sales_end),
        max_per_booking=event.max_per_booking or 0,
        max_per_user=event.max_per_user or 0,
    )


def _timestamp(value: datetime | None) -> Timestamp | None:
    if value is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(value)
    return timestamp
