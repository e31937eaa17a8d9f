import json
from datetime import UTC, datetime
from uuid import UUID

import pytest

from payment.models import (
    BODY_LIMIT_BYTES,
    REASON_LIMIT_CHARS,
    BookingCancelled,
    BookingCreated,
    Unparseable,
    read_body,
    read_message_id,
    read_request_id,
    readable,
)

BOOKING_ID = "0193a5d0-0000-7000-8000-000000000001"


def body(**changes: object) -> bytes:
    fields: dict[str, object] = {
        "booking_id": BOOKING_ID,
        "event_id": "66f0",
        "user_id": "u",
        "ticket_count": 2,
        "amount_minor": 5000,
        "currency": "EUR",
        "hold_expires_at": "2026-01-01T00:10:00+00:00",
        "request_id": "abc-1",
    }
    return json.dumps(fields | changes).encode()


def test_the_fields_that_payment_needs_are_read() -> None:
    booking = read_body(BookingCreated, body())
    assert booking.booking_id == UUID(BOOKING_ID)
    assert (booking.ticket_count, booking.amount_minor) == (2, 5000)
    assert (booking.currency, booking.request_id) == ("EUR", "abc-1")
    assert booking.hold_expires_at == datetime(2026, 1, 1, 0, 10, tzinfo=UTC)


def test_an_event_without_a_price_has_no_currency() -> None:
    assert read_body(BookingCreated, body(currency="", amount_minor=0)).currency == ""


@pytest.mark.parametrize("request_id", [None, 7, "", "two words", "x" * 65])
def test_an_odd_request_id_does_not_stop_a_payment(request_id: object) -> None:
    assert read_body(BookingCreated, body(request_id=request_id)).request_id == ""


@pytest.mark.parametrize(
    ("message", "request_id"),
    [
        (body(), "abc-1"),
        (body(booking_id="1"), "abc-1"),
        (body(request_id="two words"), ""),
        (body(request_id={}), ""),
        (b"[]", ""),
        (b"not json", ""),
        (b"\xff", ""),
        (b"[" * 100_000, ""),
    ],
)
def test_the_log_of_any_message_can_name_its_request(message: bytes, request_id: str) -> None:
    assert read_request_id(message) == request_id


@pytest.mark.parametrize(
    "unreadable",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[]",
        b"{}",
        body(booking_id="1"),
        body(booking_id=None),
        body(ticket_count=0),
        body(ticket_count="2"),
        body(ticket_count=2.5),
        body(ticket_count=2**31),
        body(amount_minor=-1),
        body(amount_minor=2**63),
        body(currency="euro"),
        body(currency="EUR\n"),
        body(hold_expires_at=None),
        body(hold_expires_at="soon"),
        body(hold_expires_at="2026-01-01T00:10:00"),
        body(hold_expires_at=1_800_000_000),
        body(padding="x" * BODY_LIMIT_BYTES),
        b"[" * 10_000,
    ],
)
def test_a_body_that_says_nothing_usable_is_unparseable(unreadable: bytes) -> None:
    with pytest.raises(Unparseable):
        read_body(BookingCreated, unreadable)


def test_the_reason_names_the_fields_and_not_their_values() -> None:
    with pytest.raises(Unparseable) as caught:
        read_body(BookingCreated, body(booking_id="secret-value", ticket_count=0))
    assert "booking_id" in str(caught.value)
    assert "ticket_count" in str(caught.value)
    assert "secret-value" not in str(caught.value)


@pytest.mark.parametrize("message_id", [None, "", "a b", "a\x00", "ä", b"\xff", "x" * 256])
def test_a_message_without_a_usable_id_is_unparseable(message_id: object) -> None:
    with pytest.raises(Unparseable):
        read_message_id(message_id)


def test_a_message_id_is_kept_as_it_is() -> None:
    assert read_message_id(BOOKING_ID) == BOOKING_ID


def cancellation(**changes: object) -> bytes:
    fields = {"status": "CANCELLED", "payment_status": "refunding", "reason": "rain"}
    return body(**(fields | changes))


def test_the_fields_that_a_refund_needs_are_read() -> None:
    booking = read_body(BookingCancelled, cancellation())
    assert booking.booking_id == UUID(BOOKING_ID)
    assert (booking.payment_status, booking.reason) == ("refunding", "rain")
    assert booking.request_id == "abc-1"


def test_a_cancellation_needs_no_reason() -> None:
    assert read_body(BookingCancelled, body(payment_status="pending")).reason == ""


@pytest.mark.parametrize(
    "unreadable",
    [
        b"",
        b"{}",
        cancellation(booking_id="1"),
        cancellation(payment_status=None),
        cancellation(payment_status="REFUNDING"),
        cancellation(reason="x" * (REASON_LIMIT_CHARS + 1)),
        cancellation(padding="x" * BODY_LIMIT_BYTES),
    ],
)
def test_a_cancellation_that_says_nothing_usable_is_unparseable(unreadable: bytes) -> None:
    with pytest.raises(Unparseable):
        read_body(BookingCancelled, unreadable)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("no\x00 funds\r\n", "no  funds"),
        ("\x1b[2Jno funds", "[2Jno funds"),
        ("Kein Guthaben: 5 € fehlen", "Kein Guthaben: 5 € fehlen"),
        ("x" * 501, "x" * 500),
        ("\ud800", ""),
    ],
)
def test_a_reason_from_elsewhere_can_be_stored_and_passed_on(given: str, shown: str) -> None:
    assert readable(given) == shown
