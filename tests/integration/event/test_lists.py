"""Lists in a real MongoDB: what they find, in which order, and what that costs."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from event import store as store_module
from event.listing import COUNT_LIMIT, ListQuery, Position, Sort, Total, position_of, to_cursor
from event.models import Event
from event.query import Plan, plan
from event.store import COLLECTION, MongoEventStore
from tests.integration.event.conftest import DATABASE, Mongo
from tests.integration.event.test_store import BARE, NOW
from ticketra.errors import Unavailable

ME, YOU = "organizer-1", "organizer-2"
DAY = timedelta(days=1)
SORTS: tuple[Sort, ...] = ("newest", "date", "-date")


def query(**parameters: Any) -> ListQuery:
    """Return a query as the API reads it."""
    return ListQuery.model_validate(parameters)


def make(number: int, **changes: Any) -> Event:
    """Return event `number`: made in that order, and each on an earlier day than the last."""
    made = replace(
        BARE,
        id=f"{number:024x}",
        title=f"Event {number}",
        created_at=NOW + timedelta(minutes=number),
        date=NOW + timedelta(days=300 - number),
        organizer_id=ME,
    )
    return replace(made, **changes)


def numbers(store: MongoEventStore, **parameters: Any) -> list[int]:
    """Return the numbers of the events that a list finds."""
    return [int(event.id, 16) for event in store.page(query(**parameters)).events]


@pytest.fixture
def some(store: MongoEventStore) -> MongoEventStore:
    for event in (
        make(1, title="Rock in the Park", location="Harbiye", category="Music"),
        make(2, title="Jazz night", location="HARBİYE ", description="No rock."),
        make(3, title="Rock climbing", location="Alps", category="sport", organizer_id=YOU),
        make(4, title='"Rock" -jazz $where', location="Café", category="MUSIC"),
        make(5, title="Rock", status="CANCELLED"),
    ):
        store.insert(event)
    return store


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ({}, [4, 3, 2, 1]),
        ({"sort": "date"}, [4, 3, 2, 1]),
        ({"sort": "-date"}, [1, 2, 3, 4]),
        ({"status": "CANCELLED"}, [5]),
        ({"q": "rock"}, [4, 3, 2, 1]),
        ({"q": "ROCK park"}, [1]),
        ({"q": "rock", "sort": "-date"}, [1, 2, 3, 4]),
        ({"q": '"jazz" -rock'}, [4, 2]),
        ({"q": "$where"}, [4]),
        ({"q": "roc"}, []),
        ({"q": "harbiye"}, [2, 1]),
        ({"q": "sport"}, [3]),
        ({"location": "harbiye"}, [2, 1]),
        ({"location": "Harb"}, []),
        ({"location": "cafe"}, [4]),
        ({"location": ".*"}, []),
        ({"category": "music"}, [4, 1]),
        ({"category": "music", "location": "harbiye", "q": "park", "organizer": ME}, [1]),
        ({"organizer": YOU}, [3]),
        ({"organizer": "$ne"}, []),
        ({"from": NOW + 298 * DAY}, [2, 1]),
        ({"to": NOW + 298 * DAY}, [4, 3]),
        ({"from": NOW + 297 * DAY, "to": NOW + 298 * DAY, "sort": "date"}, [3]),
        ({"page": 2, "limit": 3}, [1]),
        ({"page": 3, "limit": 3}, []),
    ],
    ids=str,
)  # fmt: skip
def test_a_list_holds_what_was_asked_for(
    some: MongoEventStore, parameters: dict[str, Any], found: list[int]
) -> None:
    for name in ("from", "to"):
        if name in parameters:
            parameters = parameters | {name: parameters[name].isoformat()}

    assert numbers(some, **parameters) == found


def _queries() -> Iterator[ListQuery]:
    """Every set of filters that the API takes, in every order, from the start and from further."""
    filters = {
        "q": "rock park",
        "location": "Harbiye",
        "category": "music",
        "organizer": ME,
        "from": "2030-01-02T00:00:00Z",
        "to": "2031-01-02T00:00:00Z",
    }
    for chosen in product((False, True), repeat=len(filters)):
        given = {name: filters[name] for name, take in zip(filters, chosen, strict=True) if take}
        for sort, starts in product(SORTS, (True, False)):
            cursor = "" if starts else to_cursor(Position(sort, NOW, "0" * 24))
            yield query(**given, sort=sort, cursor=cursor)


def _stages(plan: dict[str, Any]) -> Iterator[str]:
    yield plan["stage"]
    inner = [plan["inputStage"]] if "inputStage" in plan else plan.get("inputStages", [])
    for stage in inner:
        yield from _stages(stage)


def test_every_list_reads_an_index_and_sorts_nothing(some: MongoEventStore, mongo: Mongo) -> None:
    with mongo.admin() as admin:
        events = admin[DATABASE][COLLECTION]
        for asked in _queries():
            how = plan(asked)
            found = events.find(how.filter).sort(how.order).hint(how.index).limit(21)
            stages = set(_stages(found.explain()["queryPlanner"]["winningPlan"]))
            assert "IXSCAN" in stages, asked
            assert stages <= {"LIMIT", "FETCH", "IXSCAN"}, (asked, stages)


@pytest.fixture
def many(store: MongoEventStore) -> MongoEventStore:
    for number in range(1, 121):
        store.insert(make(number, title="Rock", date=NOW + (number % 7) * DAY))
    return store


@pytest.mark.parametrize("narrowed", [{}, {"q": "rock"}, {"organizer": ME}], ids=str)
def test_a_deep_page_costs_as_much_as_the_first(
    many: MongoEventStore, mongo: Mongo, narrowed: dict[str, str]
) -> None:
    deep = make(20)
    with mongo.admin() as admin:
        events = admin[DATABASE][COLLECTION]

        def keys_read(cursor: str) -> int:
            how = plan(query(**narrowed, cursor=cursor))
            found = events.find(how.filter).sort(how.order).hint(how.index).limit(11)
            read: int = found.explain()["executionStats"]["totalKeysExamined"]
            return read

        assert keys_read("") <= 12
        assert keys_read(to_cursor(position_of(deep, "newest"))) <= 13


@pytest.mark.parametrize("sort", SORTS)
def test_a_cursor_finds_each_event_once_also_among_equal_dates(
    many: MongoEventStore, sort: Sort
) -> None:
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = many.page(query(sort=sort, cursor=cursor, limit=7))
        found += [event.id for event in page.events]
        cursor = to_cursor(position_of(page.events[-1], sort)) if page.more else None

    whole = [event.id for event in many.page(query(sort=sort, limit=100)).events]
    assert len(found) == len(set(found)) == 120
    assert found[:100] == whole


def test_more_events_after_a_page_do_not_move_the_next(many: MongoEventStore) -> None:
    first = many.page(query(cursor="", limit=3))
    many.insert(make(500))
    many.insert(make(501))

    cursor = to_cursor(position_of(first.events[-1], "newest"))

    assert numbers(many, cursor=cursor, limit=3) == [117, 116, 115]


def test_the_count_is_of_what_the_filters_leave_and_bounded(
    many: MongoEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert many.page(query(limit=5)).total == Total(120, exact=True)
    assert many.page(query(limit=5, q="jazz")).total == Total(0, exact=True)
    assert many.page(query(limit=5, cursor="")).total is None
    monkeypatch.setattr(store_module, "COUNT_LIMIT", 50)
    assert many.page(query(limit=5)).total == Total(50, exact=False)
    assert COUNT_LIMIT == 10_000


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server take a tenth of a second for each event that it looks at."""

    def slowly(asked: ListQuery) -> Plan:
        how = plan(asked)
        body = "function () { sleep(100); return true; }"
        slow = {"$expr": {"$function": {"body": body, "args": [], "lang": "js"}}}
        return replace(how, filter={"$and": [how.filter, slow]})

    monkeypatch.setattr(store_module, "plan", slowly)


@pytest.mark.usefixtures("slow")
def test_a_list_that_takes_too_long_is_refused_clearly(
    some: MongoEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LIST_LIMIT_MS", 150)

    with pytest.raises(Unavailable) as caught:
        numbers(some, q="rock")

    assert (caught.value.code, caught.value.retry_after_s) == ("list_too_slow", 2)


@pytest.mark.usefixtures("slow")
def test_a_count_that_takes_too_long_says_what_was_seen(
    some: MongoEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "COUNT_LIMIT_MS", 150)

    assert some.page(query(limit=2)).total == Total(3, exact=False)
    assert some.page(query(limit=2, page=2)).total == Total(4, exact=True)
    assert some.page(query(limit=2, page=9)).total == Total(0, exact=False)
