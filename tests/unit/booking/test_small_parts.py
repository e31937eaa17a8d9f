"""Ids, sold-out markers, field checks and the caller check."""

import re
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booking.callers import ALLOWED, Callers
from booking.markers import MARKER_TTL_S, SoldOutMarkers
from booking.validation import PROBLEMS_LIMIT, Problems, is_uuid
from ticketra.booking.v1 import booking_pb2
from ticketra.errors import Forbidden, Invalid, Unauthenticated
from ticketra.ids import RANDOM_BITS, IdSource, uuid7
from ticketra.rpc import caller_metadata, to_status


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**RANDOM_BITS - 1))
def test_ids_are_uuids_of_version_7_that_hold_their_time(unix_ms: int, bits: int) -> None:
    value = uuid.UUID(uuid7(unix_ms, bits))
    assert (value.version, value.variant) == (7, uuid.RFC_4122)
    assert value.int >> 80 == unix_ms
    assert (value.int >> 64 & 0xFFF) << 62 | value.int & (2**62 - 1) == bits


def test_ids_sort_by_time() -> None:
    times = iter([5_000_000, 6_000_000])
    mint = IdSource(time_ns=lambda: next(times))
    assert mint() < mint()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_marker_lives_for_a_second_from_when_it_was_seen() -> None:
    clock = Clock()
    markers = SoldOutMarkers(clock)
    markers.put("a", 0, seen_at=99.5)
    assert markers.is_sold_out("a")
    clock.now = 99.5 + MARKER_TTL_S
    assert not markers.is_sold_out("a")


def test_a_reopening_clears_the_marker_and_a_late_marker_does_not_hide_it() -> None:
    markers = SoldOutMarkers(Clock())
    markers.put("a", 0, seen_at=100)
    markers.reopen("a", 1)
    assert not markers.is_sold_out("a")
    markers.put("a", 0, seen_at=100)
    assert not markers.is_sold_out("a")
    markers.put("a", 1, seen_at=100)
    assert markers.is_sold_out("a")


@pytest.mark.parametrize(
    ("check", "value"),
    [
        ("event_id", ""),
        ("event_id", "x" * 65),
        ("event_id", "a b"),
        ("event_id", "é"),
        ("user_id", ""),
        ("user_id", "x" * 129),
        ("user_id", "a\x00b"),
        ("key", "x" * 256),
        ("key", "a\nb"),
        ("reason", "x" * 501),
        ("reason", "\x00"),
    ],
)
def test_a_wrong_field_is_named(check: str, value: str) -> None:
    problems = Problems()
    getattr(problems, check)(value)
    with pytest.raises(Invalid) as refused:
        problems.refuse()
    assert refused.value.code == "validation_failed"
    assert refused.value.errors[0].field.endswith(check)


def test_a_refusal_stays_small_however_much_is_wrong() -> None:
    problems = Problems()
    problems.event_ids([" "] * 100)
    with pytest.raises(Invalid) as refused:
        problems.refuse()
    assert len(refused.value.errors) == PROBLEMS_LIMIT
    assert to_status(refused.value).ByteSize() < 4096


def test_what_is_allowed_passes() -> None:
    problems = Problems()
    problems.event_id("64a1")
    problems.user_id("Jürgen Müller")
    problems.key("")
    problems.key("!~")
    problems.price(0, "")
    problems.price(100, "EUR")
    problems.refuse()


@pytest.mark.parametrize(
    ("amount", "currency"), [(1, ""), (0, "eur"), (-1, "EUR"), (10**10, "EUR")]
)
def test_a_price_needs_a_currency_and_a_bound(amount: int, currency: str) -> None:
    problems = Problems()
    problems.price(amount, currency)
    with pytest.raises(Invalid):
        problems.refuse()


@given(st.text(max_size=40))
def test_any_text_can_be_asked_whether_it_is_a_uuid(text: str) -> None:
    assert not is_uuid(text) or uuid.UUID(text)


PROTO = Path(__file__).parents[3] / "proto/ticketra/booking/v1/booking.proto"
CALLERS = Callers({"gateway": "g-secret", "event": "e-secret", "payment": "p-secret"})


def test_every_method_of_the_contract_has_its_callers() -> None:
    service = booking_pb2.DESCRIPTOR.services_by_name["BookingService"]
    assert set(ALLOWED) == {method.name for method in service.methods}


def test_the_contract_says_who_may_call_what() -> None:
    said = {
        method: frozenset(re.findall(r"gateway|event|payment", callers))
        for callers, method in re.findall(r"Callers: ([^\n]+)\.\n *rpc (\w+)", PROTO.read_text())
    }
    assert said == dict(ALLOWED)


def test_what_payment_never_asks_for_is_not_for_payment() -> None:
    with pytest.raises(Forbidden):
        CALLERS.identify("GetBooking", caller_metadata("payment", "p-secret"))


def test_a_known_caller_is_let_in_with_its_request_id() -> None:
    metadata = caller_metadata("gateway", "g-secret", "request-7")
    assert CALLERS.identify("CreateBooking", metadata) == ("gateway", "request-7")


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        caller_metadata("gateway", "e-secret"),
        caller_metadata("gateway", ""),
        caller_metadata("nobody", ""),
        caller_metadata("nobody", "g-secret"),
        caller_metadata("gateway", "é"),
    ],
)
def test_a_wrong_credential_is_refused(metadata: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(Unauthenticated):
        CALLERS.identify("CreateBooking", metadata)


@pytest.mark.parametrize(
    ("caller", "method"),
    [
        ("payment", "CreateBooking"),
        ("gateway", "ConfirmBooking"),
        ("gateway", "ExtendHold"),
        ("event", "ExtendHold"),
        ("gateway", "RecordRefund"),
        ("event", "RecordRefund"),
        ("payment", "ListTickets"),
        ("event", "ListTickets"),
        ("gateway", "PutSale"),
    ],
)
def test_a_method_that_is_for_others_is_refused(caller: str, method: str) -> None:
    with pytest.raises(Forbidden):
        CALLERS.identify(method, caller_metadata(caller, f"{caller[0]}-secret"))
