"""`make bench-lists`: what a page of events costs, at the beginning of a list and deep in it.

The event function's store reads pages of a private MongoDB; HTTP, the read cache and availability
are left out. All rows take their turn within a round; what is shown are medians.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from bson import ObjectId

from event.listing import PAGE_LIMIT, ListQuery, Position, Sort, to_cursor
from event.models import Event
from event.store import COLLECTION, MongoEventStore, _searchable, connect
from migrate import mongodb
from tests.integration.event.conftest import DATABASE, EVENT, Mongo
from tests.integration.event.test_store import BARE, NOW

DEPTH = 100_000
BEYOND = 10_000
BATCH = 2_000
WARM_UP = 20


def main() -> None:
    """Fill a MongoDB, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    home = Path(tempfile.mkdtemp(prefix="ticketra-bench-lists-"))
    mongo = Mongo(home)
    try:
        mongo.start()
        mongodb.apply(mongo.migrate_settings())
        _fill(mongo)
        store = MongoEventStore(lambda: connect(mongo.url, EVENT), DATABASE)
        _print(_measure(store, rounds))
        store.close()
    finally:
        mongo.stop()
        shutil.rmtree(home)


def _event(number: int) -> Event:
    """Return event `number`, made in that order; a thousand of them share each date."""
    return replace(
        BARE,
        id=f"{number:024x}",
        title=f"Event {number} with rock music",
        location=f"Hall {number % 50}",
        category="music" if number % 2 else "sport",
        organizer_id=f"organizer-{number % 1_000}",
        created_at=NOW + timedelta(seconds=number),
        date=NOW + timedelta(days=number // 1_000),
    )


def _fill(mongo: Mongo) -> None:
    with mongo.admin() as admin:
        events = admin[DATABASE][COLLECTION]
        for start in range(0, DEPTH + BEYOND, BATCH):
            made = map(_event, range(start, start + BATCH))
            events.insert_many(
                [{"_id": ObjectId(event.id), **_searchable(event)} for event in made], ordered=False
            )


def _deep(sort: Sort) -> str:
    """Return the cursor after DEPTH events of the whole list."""
    number = DEPTH - 1 if sort == "date" else BEYOND
    event = _event(number)
    moment = event.created_at if sort == "newest" else event.date
    return to_cursor(Position(sort, moment, event.id))


def _queries() -> dict[str, ListQuery]:
    rows: dict[str, ListQuery] = {}
    sorts: tuple[Sort, ...] = ("newest", "date", "-date")
    for sort in sorts:
        for name, narrowed in (("all", {}), ("q=rock", {"q": "rock"})):
            for place, cursor in (("first page", ""), ("after 100,000", _deep(sort))):
                rows[f"{name}, {sort}: cursor, {place}"] = ListQuery.model_validate(
                    {"sort": sort, "cursor": cursor, **narrowed}
                )
    for number, place in ((1, "first page"), (PAGE_LIMIT, f"page {PAGE_LIMIT:,}")):
        rows[f"all, newest: page and limit of 100, counted, {place}"] = ListQuery.model_validate(
            {"page": number, "limit": 100}
        )
    return rows


def _measure(store: MongoEventStore, rounds: int) -> dict[str, list[float]]:
    queries = _queries()
    times: dict[str, list[float]] = {name: [] for name in queries}
    for number in range(rounds + WARM_UP):
        for name, query in queries.items():
            started = time.perf_counter()
            found = store.page(query)
            taken = time.perf_counter() - started
            assert len(found.events) == query.limit, name
            if number >= WARM_UP:
                times[name].append(taken)
    return times


def _print(times: dict[str, list[float]]) -> None:
    print("| page | p50 ms | of the first page's | p99 ms |")
    print("| --- | ---: | ---: | ---: |")
    first = 1.0
    for name, taken in times.items():
        median = statistics.median(taken) * 1000
        if name.endswith("first page"):
            first = median
        p99 = statistics.quantiles(taken, n=100)[98] * 1000
        print(f"| {name} | {median:.2f} | {median / first:.2f} | {p99:.2f} |")


if __name__ == "__main__":
    main()
