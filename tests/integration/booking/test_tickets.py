"""Tickets: issued with the confirmation, void with the cancellation, shown with their codes."""

import grpc
import jwt
import pytest

from tests.integration.booking.test_contract import refused
from tests.integration.booking_task import TICKET_KEY, Client, orders
from tests.integration.servers import Server
from ticketra.booking.v1 import booking_pb2 as pb
from ticketra.ticket_codes import TicketClaims, TicketVerifier

DOOR = TicketVerifier(TICKET_KEY.jwks)
NOT_ISSUED = "tickets_not_issued"


@pytest.fixture
def sold(client: Client, event_id: str) -> pb.Booking:
    """A confirmed booking of 3 tickets."""
    client.put_sale(event_id, 3)
    return client.confirm(client.create(event_id, 3).booking.id)


def test_a_confirmed_booking_has_a_ticket_with_a_code_for_each_seat(
    client: Client, sold: pb.Booking
) -> None:
    answer = client.tickets(sold.id)
    assert answer.next_after == 0
    assert [ticket.number for ticket in answer.tickets] == [1, 2, 3]
    assert len({ticket.id for ticket in answer.tickets}) == 3
    for ticket in answer.tickets:
        assert (ticket.booking_id, ticket.status) == (sold.id, pb.TICKET_STATUS_VALID)
        assert DOOR.verify(ticket.code) == TicketClaims(
            ticket.id, sold.id, sold.event_id, ticket.number
        )
        assert jwt.get_unverified_header(ticket.code)["kid"] == TICKET_KEY.kid
    assert client.tickets(sold.id) == answer, "a ticket has one code"


def test_confirming_again_issues_nothing(client: Client, sold: pb.Booking) -> None:
    before = client.tickets(sold.id)
    client.confirm(sold.id)
    assert client.tickets(sold.id) == before


def test_cancelling_makes_the_tickets_void(client: Client, sold: pb.Booking) -> None:
    before = client.tickets(sold.id).tickets
    client.cancel(sold.id)
    void = client.tickets(sold.id).tickets
    assert [(t.id, t.code) for t in void] == [(t.id, "") for t in before]
    assert {ticket.status for ticket in void} == {pb.TICKET_STATUS_VOID}


def test_a_late_payment_that_gets_the_tickets_again_gets_codes(
    client: Client, event_id: str, postgres: Server
) -> None:
    client.put_sale(event_id, 2)
    late = client.create(event_id, 2).booking
    with orders(postgres) as connection:
        connection.execute("UPDATE bookings SET status = 'EXPIRED' WHERE id = %s", [late.id])
        connection.execute("UPDATE sales SET remaining = 2 WHERE event_id = %s", [event_id])
    with refused(NOT_ISSUED):
        client.tickets(late.id)
    client.confirm(late.id)
    assert [DOOR.verify(t.code).number for t in client.tickets(late.id).tickets] == [1, 2]


def test_what_was_never_confirmed_has_no_tickets(client: Client, event_id: str) -> None:
    client.put_sale(event_id, 2)
    made = client.create(event_id, 2).booking
    with refused(NOT_ISSUED, grpc.StatusCode.FAILED_PRECONDITION):
        client.tickets(made.id)
    with refused(NOT_ISSUED):
        client.tickets(made.id, after=1)
    client.cancel(made.id)
    with refused(NOT_ISSUED):
        client.tickets(made.id)


def test_tickets_are_for_their_owner(client: Client, sold: pb.Booking) -> None:
    assert len(client.tickets(sold.id, user="ada").tickets) == 3
    with refused("booking_not_found", grpc.StatusCode.NOT_FOUND):
        client.tickets(sold.id, user="bob")


def test_as_many_tickets_as_a_booking_may_have_are_issued_at_once_and_come_in_pages(
    client: Client, event_id: str
) -> None:
    client.put_sale(event_id, 1_000)
    made = client.create(event_id, 1_000).booking
    client.confirm(made.id)
    numbers: list[int] = []
    after = 0
    while True:
        page = client.tickets(made.id, page_size=100, after=after)
        assert len(page.tickets) == 100
        numbers += [ticket.number for ticket in page.tickets]
        after = page.next_after
        if not after:
            break
    assert numbers == list(range(1, 1_001))
    assert len(client.tickets(made.id).tickets) == 20, "the usual size of a page"
    assert client.tickets(made.id, after=1_000) == pb.ListTicketsResponse()
    client.cancel(made.id)
    assert client.remaining(event_id) == 1_000
    assert {t.status for t in client.tickets(made.id, page_size=100, after=900).tickets} == {
        pb.TICKET_STATUS_VOID
    }


def test_a_refund_is_recorded_on_a_cancelled_booking(client: Client, sold: pb.Booking) -> None:
    with refused("booking_confirmed", grpc.StatusCode.FAILED_PRECONDITION):
        client.record_refund(sold.id)
    client.cancel(sold.id)
    refunded = client.record_refund(sold.id)
    assert refunded.status == pb.BOOKING_STATUS_CANCELLED
    assert refunded.payment_status == pb.PAYMENT_STATUS_REFUNDED
    assert refunded.reason == "changed my mind"
    assert client.record_refund(sold.id) == client.get(sold.id) == refunded
