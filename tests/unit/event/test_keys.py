"""Creating with an Idempotency-Key: one event, whatever gets lost on the way."""

from typing import Any

import pytest

from tests.unit.common.support import OTHER_ID
from tests.unit.event.fakes import CONCERT, EventFunction

KEY = {"Idempotency-Key": "key-1"}


@pytest.fixture
def function() -> EventFunction:
    return EventFunction()


def test_the_same_key_and_body_answer_as_the_first_time(function: EventFunction) -> None:
    first = function.create(headers=KEY)
    event_id = first.json()["id"]
    function.sales.sold[event_id].taken = 5
    function.patch(event_id, {"title": "Gala"}, tag="*")

    again = function.create(headers=KEY, title=" Concert ")

    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert again.headers["location"] == first.headers["location"]
    assert len(function.store.events) == 1


def test_another_body_does_not_fit_the_key(function: EventFunction) -> None:
    function.create(headers=KEY)

    answer = function.create(headers=KEY, title="Another")

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    assert len(function.store.events) == 1


def test_keys_are_each_organizers_own(function: EventFunction) -> None:
    mine = function.create(headers=KEY)
    theirs = function.create(headers=KEY | function.key.bearer(sub=OTHER_ID))

    assert mine.json()["id"] != theirs.json()["id"]
    assert "idempotent-replayed" not in theirs.headers


def test_without_a_key_every_request_makes_an_event(function: EventFunction) -> None:
    assert function.create().json()["id"] != function.create().json()["id"]
    assert function.store.keys == {}


def test_a_retry_finishes_what_the_first_request_began(function: EventFunction) -> None:
    function.sales.lose_answers = True
    lost = function.create(headers=KEY)

    again = function.create(headers=KEY)

    assert (lost.status_code, again.status_code) == (503, 201)
    assert list(function.sales.sold) == [again.json()["id"]]
    assert "idempotent-replayed" not in again.headers


def test_of_two_requests_at_once_one_makes_the_event(function: EventFunction) -> None:
    second: list[Any] = []
    function.sales.before_put = lambda _: second.append(function.create(headers=KEY))

    first = function.create(headers=KEY)

    assert first.json() == second[0].json()
    assert first.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in second[0].headers
    assert len(function.store.events) == len(function.sales.sold) == 1


def test_a_replay_is_answered_after_the_event(function: EventFunction) -> None:
    first = function.create(headers=KEY)
    function.now = function.now.replace(year=2031)

    again = function.create(headers=KEY)
    another = function.create(headers={"Idempotency-Key": "key-2"})

    assert (again.status_code, again.json()) == (201, first.json())
    assert another.status_code == 422
    assert len(function.store.keys) == 1


def test_a_refused_event_does_not_use_the_key_up(function: EventFunction) -> None:
    refused = function.create(headers=KEY, date="2029-01-01T00:00:00Z")
    mended = function.create(headers=KEY, date=CONCERT["date"])

    assert (refused.status_code, mended.status_code) == (422, 201)


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "k\u00e9"])
def test_a_key_is_visible_ascii(function: EventFunction, key: str) -> None:
    answer = function.create(headers={"Idempotency-Key": key.encode("latin-1")})  # type: ignore[dict-item]

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
