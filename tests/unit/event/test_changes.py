"""Changing and cancelling events: owners, preconditions, and document and sale staying together."""

from typing import Any

import pytest

from event.models import Event, KeptEvent
from tests.unit.common.support import OTHER_ID, USER_ID
from tests.unit.event.fakes import CONCERT, EventFunction


@pytest.fixture
def function() -> EventFunction:
    return EventFunction()


@pytest.fixture
def event_id(function: EventFunction) -> str:
    return str(function.create(price={"amount_minor": 100, "currency": "EUR"}).json()["id"])


def _sale(function: EventFunction, event_id: str) -> Event:
    return function.sales.sold[event_id].event


def _known(function: EventFunction, event_id: str) -> KeptEvent:
    return function.store.kept[event_id]


def test_a_patch_changes_what_it_names(function: EventFunction, event_id: str) -> None:
    before = function.http.get(f"/api/events/{event_id}").json()

    answer = function.patch(event_id, {"title": " Gala ", "description": "Two hours"}, tag='"1"')

    assert answer.status_code == 200
    changed = before | {"title": "Gala", "description": "Two hours"}
    assert answer.json() == changed | {"updated_at": answer.json()["updated_at"]}
    assert answer.json()["updated_at"] > before["updated_at"]
    assert answer.headers["etag"] == '"2-100"'
    assert function.http.get(f"/api/events/{event_id}").json() == answer.json()


def test_a_patch_merges_and_null_removes(function: EventFunction, event_id: str) -> None:
    cheaper = function.patch(event_id, {"price": {"amount_minor": 50}}, tag='"1"')
    free = function.patch(event_id, {"price": None, "category": None}, tag='"2"')
    priced = function.patch(event_id, {"price": {"amount_minor": 50}}, tag='"3"')

    assert cheaper.json()["price"] == {"amount_minor": 50, "currency": "EUR"}
    assert free.json()["price"] is None
    assert (priced.status_code, priced.json()["errors"][0]["field"]) == (422, "price.currency")


def test_terms_go_to_the_sale_with_the_new_version(function: EventFunction, event_id: str) -> None:
    answer = function.patch(event_id, {"total_tickets": 120, "max_per_user": 4}, tag='"1-100"')

    assert (answer.json()["total_tickets"], answer.json()["available_tickets"]) == (120, 120)
    sale = _sale(function, event_id)
    assert (sale.version, sale.total_tickets, sale.max_per_user) == (2, 120, 4)


def test_what_is_no_term_leaves_the_sale_alone(function: EventFunction, event_id: str) -> None:
    function.sales.away = True

    answer = function.patch(event_id, {"title": "Gala"}, tag='"1"')

    assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
    assert _sale(function, event_id).version == 1


def test_the_end_of_the_sale_moves_with_the_date(function: EventFunction, event_id: str) -> None:
    earlier = function.patch(event_id, {"date": "2030-06-01T00:00:00Z"}, tag='"1"').json()

    assert earlier["sales_end"] == earlier["date"] == "2030-06-01T00:00:00Z"
    assert _sale(function, event_id).sales_end == function.store.events[0].date


def test_a_patch_of_nothing_changes_nothing(function: EventFunction, event_id: str) -> None:
    answer = function.patch(event_id, {"title": CONCERT["title"]}, tag='"1"')

    assert (answer.status_code, answer.headers["etag"]) == (200, '"1-100"')


@pytest.mark.parametrize(
    ("tag", "status", "code"),
    [
        (None, 428, "precondition_required"),
        ('"2"', 412, "precondition_failed"),
        ('W/"1"', 412, "precondition_failed"),
        ("1", 412, "precondition_failed"),
        ('"1-7"', 200, None),  # sold since: no reason to refuse
        ('"7", "1"', 200, None),
        ("*", 200, None),
    ],
)
def test_a_patch_is_of_the_version_that_is_known(
    function: EventFunction, event_id: str, tag: str | None, status: int, code: str | None
) -> None:
    answer = function.patch(event_id, {"title": "Gala"}, tag=tag)

    assert (answer.status_code, answer.json().get("code")) == (status, code)
    assert (function.store.events[0].title == "Gala") is (status == 200)


@pytest.mark.parametrize(
    "patch",
    [
        {"title": None}, {"title": ""}, {"title": 5}, {"total_tickets": 0}, {"status": "SCHEDULED"},
        {"total_tickets": None}, {"date": "soon"}, {"id": "1"}, {"organizer_id": "me"},
        {"sales_end": "2031-01-01T00:00:00Z"}, {"date": "2030-01-01T00:00:00Z"},
        {"price": {"amount_minor": -1}}, {"price": {"$inc": 1}}, {"$set": {"title": "x"}},
        {"version": 9}, {"max_per_booking": 7, "max_per_user": 6},
    ],
    ids=str,
)  # fmt: skip
def test_a_patch_has_to_leave_a_valid_event(
    function: EventFunction, event_id: str, patch: dict[str, Any]
) -> None:
    before = _known(function, event_id)

    answer = function.patch(event_id, patch, tag='"1"')

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert answer.json()["errors"]
    assert _known(function, event_id) == before


@pytest.mark.parametrize("body", ["[]", "null", "5", "{", '"title"'])
def test_a_patch_is_an_object(function: EventFunction, event_id: str, body: str) -> None:
    headers = function.key.bearer() | {"If-Match": "*", "Content-Type": "application/json"}

    answer = function.http.patch(f"/api/events/{event_id}", content=body, headers=headers)

    assert answer.status_code in {400, 422}


def test_a_past_event_can_still_be_described(function: EventFunction, event_id: str) -> None:
    function.now = function.now.replace(year=2031)

    described = function.patch(event_id, {"description": "It was great"}, tag='"1"')
    moved = function.patch(event_id, {"date": "2030-08-01T00:00:00Z"}, tag='"2"')

    assert (described.status_code, moved.status_code) == (200, 422)


def test_others_may_not_change_or_cancel(function: EventFunction, event_id: str) -> None:
    for answer in (
        function.patch(event_id, {"title": "Mine"}, tag="*", sub=OTHER_ID),
        function.delete(event_id, sub=OTHER_ID),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "not_your_event")
    assert function.store.events[0].title == CONCERT["title"]
    assert function.store.events[0].status == "SCHEDULED"


def test_an_admin_may(function: EventFunction, event_id: str) -> None:
    patched = function.patch(event_id, {"title": "Gala"}, tag="*", sub=OTHER_ID, role="admin")
    deleted = function.delete(event_id, sub=OTHER_ID, role="admin")

    assert (patched.status_code, deleted.status_code) == (200, 204)
    assert function.store.events[0].organizer_id == USER_ID


@pytest.mark.parametrize("policy", ["strict", "open"])
def test_nobody_changes_without_a_token(policy: Any) -> None:
    function = EventFunction(policy)
    event_id = function.create().json()["id"]
    url = f"/api/events/{event_id}"

    for answer in (
        function.http.patch(url, json={"title": "x"}, headers={"If-Match": "*"}),
        function.http.delete(url),
    ):
        assert (answer.status_code, answer.json()["code"]) == (401, "authentication_required")


@pytest.mark.parametrize("event_id", ["0" * 24, "nothing", "%00", "[$ne]"])
def test_what_is_not_there_cannot_be_changed(function: EventFunction, event_id: str) -> None:
    assert function.patch(event_id, {}, tag="*").status_code == 404
    assert function.delete(event_id).status_code == 404


def test_fewer_tickets_than_are_sold_is_refused(function: EventFunction, event_id: str) -> None:
    function.sales.sold[event_id].taken = 60

    refused = function.patch(event_id, {"total_tickets": 59}, tag='"1"')
    allowed = function.patch(event_id, {"total_tickets": 60}, tag='"1"')

    assert (refused.status_code, refused.json()["code"]) == (409, "capacity_below_sold")
    assert (allowed.status_code, allowed.json()["available_tickets"]) == (200, 0)
    assert _sale(function, event_id).version == _known(function, event_id).event.version == 3


def test_a_refused_change_goes_to_the_sale_with_the_next(
    function: EventFunction, event_id: str
) -> None:
    """The refused version may still arrive: only a put after it makes the sale sure."""
    function.sales.sold[event_id].taken = 60
    function.patch(event_id, {"total_tickets": 59}, tag='"1"')

    function.patch(event_id, {"title": "Gala"}, tag='"1"')

    assert _sale(function, event_id).version == _known(function, event_id).event.version == 3


def test_a_crash_after_the_sale_moved_heals_by_the_same_patch(
    function: EventFunction, event_id: str
) -> None:
    _crash(function, event_id, {"total_tickets": 120})
    assert function.http.get(f"/api/events/{event_id}").json()["total_tickets"] == 100

    answer = function.patch(event_id, {"total_tickets": 120}, tag='"1"')

    assert (answer.status_code, answer.json()["total_tickets"]) == (200, 120)
    _assert_together(function, event_id, version=2)


def test_a_crash_after_the_sale_moved_heals_by_another_patch(
    function: EventFunction, event_id: str
) -> None:
    _crash(function, event_id, {"total_tickets": 120})

    stale = function.patch(event_id, {"total_tickets": 80}, tag='"1"')
    fresh = function.patch(event_id, {"total_tickets": 80}, tag='"2"')

    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    assert (fresh.status_code, fresh.json()["total_tickets"]) == (200, 80)
    _assert_together(function, event_id, version=3)


def test_a_crash_before_the_sale_moved_heals(function: EventFunction, event_id: str) -> None:
    function.sales.away = True
    failed = function.patch(event_id, {"total_tickets": 120}, tag='"1"')
    function.sales.away = False

    again = function.patch(event_id, {"total_tickets": 120}, tag='"1"')

    assert (failed.status_code, again.status_code) == (503, 200)
    _assert_together(function, event_id, version=2)


def test_a_lost_answer_of_the_sale_heals(function: EventFunction, event_id: str) -> None:
    function.sales.lose_answers = True
    failed = function.patch(event_id, {"total_tickets": 120}, tag='"1"')

    again = function.patch(event_id, {"total_tickets": 120}, tag='"1"')

    assert (failed.status_code, again.status_code) == (503, 200)
    _assert_together(function, event_id, version=2)


def test_a_begun_change_that_the_sale_refuses_is_out_of_the_way(
    function: EventFunction, event_id: str
) -> None:
    function.sales.away = True
    function.patch(event_id, {"total_tickets": 50}, tag='"1"')
    function.sales.away = False
    function.sales.sold[event_id].taken = 60

    answer = function.patch(event_id, {"total_tickets": 90}, tag='"1"')

    assert (answer.status_code, answer.json()["total_tickets"]) == (200, 90)
    _assert_together(function, event_id, version=3)


def test_of_two_patches_at_once_one_wins(function: EventFunction, event_id: str) -> None:
    """The second arrives while the first is at the sale; it finishes the first, and is refused."""
    second: list[Any] = []

    def arrive(_: Event) -> None:
        second.append(function.patch(event_id, {"total_tickets": 80}, tag='"1"'))

    function.sales.before_put = arrive
    first = function.patch(event_id, {"total_tickets": 120}, tag='"1"')

    assert (first.status_code, second[0].status_code) == (200, 412)
    assert first.json()["total_tickets"] == 120
    _assert_together(function, event_id, version=2)


def test_a_patch_that_was_overtaken_at_the_end_is_not_taken_for_done(
    function: EventFunction, event_id: str
) -> None:
    def overtake() -> None:
        function.store.before_finish = lambda: None
        function.patch(event_id, {"total_tickets": 120}, tag='"1"')
        assert function.patch(event_id, {"total_tickets": 80}, tag='"2"').status_code == 200

    function.store.before_finish = overtake
    answer = function.patch(event_id, {"total_tickets": 120}, tag='"1"')

    assert answer.status_code == 412
    _assert_together(function, event_id, version=3)


def test_a_document_from_a_backup_catches_up_with_its_sale(
    function: EventFunction, event_id: str
) -> None:
    old = _known(function, event_id)
    for number in range(3):
        function.patch(event_id, {"total_tickets": 200 + number}, tag=f'"{number + 1}"')
    function.store.kept[event_id] = old

    answer = function.patch(event_id, {"total_tickets": 90}, tag='"1"')

    assert (answer.status_code, answer.json()["total_tickets"]) == (200, 90)
    _assert_together(function, event_id, version=5)


def test_an_event_that_changes_all_the_time_is_busy(function: EventFunction, event_id: str) -> None:
    function.store.replace = lambda known, changed: False  # type: ignore[method-assign]

    answer = function.patch(event_id, {"title": "Gala"}, tag="*")

    assert (answer.status_code, answer.json()["code"]) == (409, "event_busy")
    assert answer.headers["retry-after"]


def test_cancelling_closes_the_sale_first(function: EventFunction, event_id: str) -> None:
    answer = function.delete(event_id)

    assert (answer.status_code, answer.content) == (204, b"")
    assert function.sales.sold[event_id].closed
    shown = function.http.get(f"/api/events/{event_id}").json()
    assert (shown["status"], shown["available_tickets"]) == ("CANCELLED", 0)


def test_nothing_is_cancelled_whose_sale_cannot_be_closed(
    function: EventFunction, event_id: str
) -> None:
    function.sales.away = True
    failed = function.delete(event_id)
    shown = function.http.get(f"/api/events/{event_id}").json()
    function.sales.away = False

    again = function.delete(event_id)

    assert (failed.status_code, shown["status"], again.status_code) == (503, "SCHEDULED", 204)
    assert function.store.events[0].status == "CANCELLED"


def test_cancelling_again_changes_nothing(function: EventFunction, event_id: str) -> None:
    function.delete(event_id, tag='"1"')
    before = _known(function, event_id)

    assert function.delete(event_id).status_code == 204
    assert function.delete(event_id, tag='"1"').status_code == 204
    assert _known(function, event_id) == before


def test_cancelling_honours_if_match(function: EventFunction, event_id: str) -> None:
    assert function.delete(event_id, tag='"2"').status_code == 412
    assert not function.sales.sold[event_id].closed
    assert function.delete(event_id, tag='"1-3"').status_code == 204


def test_what_is_cancelled_cannot_be_changed(function: EventFunction, event_id: str) -> None:
    function.delete(event_id)

    answer = function.patch(event_id, {"title": "Gala"}, tag="*")

    assert (answer.status_code, answer.json()["code"]) == (409, "event_cancelled")


def test_cancelling_finishes_a_change_that_was_begun(
    function: EventFunction, event_id: str
) -> None:
    _crash(function, event_id, {"total_tickets": 120})

    assert function.delete(event_id).status_code == 204

    event = function.store.events[0]
    assert (event.status, event.total_tickets) == ("CANCELLED", 120)
    assert function.sales.sold[event_id].closed


def test_a_cancellation_that_was_begun_is_finished_by_a_patch(
    function: EventFunction, event_id: str
) -> None:
    _crash_cancelling(function, event_id)

    answer = function.patch(event_id, {"title": "Gala"}, tag='"1"')

    assert answer.status_code == 412
    assert function.store.events[0].status == "CANCELLED"


def test_an_event_without_a_sale_can_be_cancelled(function: EventFunction, event_id: str) -> None:
    function.sales.sold.clear()

    assert function.delete(event_id).status_code == 204


class _CrashError(Exception):
    pass


def _die() -> None:
    raise _CrashError


def _crash(function: EventFunction, event_id: str, patch: dict[str, Any]) -> None:
    """Change an event, and die between the sale and the document."""
    function.store.before_finish = _die
    assert function.patch(event_id, patch, tag="*").status_code == 500
    function.store.before_finish = lambda: None
    assert _known(function, event_id).prepared is not None


def _crash_cancelling(function: EventFunction, event_id: str) -> None:
    function.store.before_finish = _die
    assert function.delete(event_id).status_code == 500
    function.store.before_finish = lambda: None
    assert function.store.events[0].status == "SCHEDULED"


def _assert_together(function: EventFunction, event_id: str, *, version: int) -> None:
    known, sale = _known(function, event_id), _sale(function, event_id)
    assert known.prepared is None
    assert known.event.version == sale.version == version
    assert known.event.total_tickets == sale.total_tickets
