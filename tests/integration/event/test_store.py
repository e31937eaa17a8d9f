"""Events in a real MongoDB: what is kept, what is refused, and what happens when it goes away."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
from bson import Int64
from pymongo import MongoClient
from pymongo.errors import OperationFailure, WriteError

from event.listing import ListQuery
from event.models import CreationKey, Event, KeptEvent, Money
from event.store import COLLECTION, KEYS_COLLECTION, OPERATION_LIMIT_MS, Document, MongoEventStore
from event.store import connect as connect_as
from migrate import mongodb
from tests.integration.event.conftest import DATABASE, EVENT, Mongo
from ticketra.errors import Unavailable
from ticketra.secrets import Credentials

NOW = datetime(2030, 1, 1, 12, 0, 0, 123_000, tzinfo=UTC)
FULL = Event(
    id="65a000000000000000000001",
    title="Concert 😀",
    description="Two\nlines",
    category="music",
    location="Harbiye",
    date=NOW + timedelta(days=30),
    total_tickets=1_000_000,
    price=Money(amount_minor=10**9, currency="TRY"),
    sales_start=NOW,
    sales_end=NOW + timedelta(days=1),
    max_per_booking=6,
    max_per_user=10,
    status="SCHEDULED",
    organizer_id="someone",
    version=1,
    created_at=NOW,
    updated_at=NOW,
)
BARE = replace(
    FULL,
    id="65a000000000000000000002",
    description=None,
    category=None,
    price=None,
    sales_start=None,
    sales_end=None,
    max_per_booking=None,
    max_per_user=None,
)


@pytest.mark.parametrize("event", [FULL, BARE], ids=["full", "bare"])
def test_finds_what_it_keeps(store: MongoEventStore, event: Event) -> None:
    store.insert(event)

    assert store.get(event.id) == event
    assert store.page(ListQuery()).events == [event]


@pytest.mark.parametrize("event_id", ["f" * 24, "", "abc", "f" * 25, "\u0000" * 12, "$ne"])
def test_what_is_no_event_is_none(store: MongoEventStore, event_id: str) -> None:
    assert store.get(event_id) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"title": ""}, {"title": 7}, {"total_tickets": 0}, {"total_tickets": 1.5},
        {"date": "2030-01-01"}, {"status": "OVER"}, {"price": {"amount_minor": Int64(1)}},
        {"price": {"amount_minor": Int64(-1), "currency": "EUR"}}, {"organizer_id": None},
        {"max_per_user": 0}, {"version": Int64(0)}, {"more": 1}, {"search": {"words": []}},
        {"search.words": "one"}, {"prepared": {}}, {"sale_version": 1.5},
    ],
    ids=str,
)  # fmt: skip
def test_the_collection_refuses_what_the_function_never_sends(
    store: MongoEventStore, mongo: Mongo, changes: dict[str, Any]
) -> None:
    store.insert(FULL)
    with mongo.admin() as admin:
        events = admin[DATABASE][COLLECTION]
        with pytest.raises(WriteError, match="failed validation"):
            events.update_one({}, {"$set": changes})


def test_a_stopped_server_is_an_outage_and_then_none(store: MongoEventStore, mongo: Mongo) -> None:
    store.insert(FULL)
    mongo.stop()
    for ask in (
        lambda: store.get(FULL.id),
        lambda: store.insert(BARE),
        lambda: store.page(ListQuery()),
    ):
        with pytest.raises(Unavailable) as caught:
            ask()
        assert caught.value.retry_after_s

    mongo.start()

    assert store.get(FULL.id) == FULL
    assert store.get(BARE.id) is None


def test_a_server_that_says_nothing_is_given_up(store: MongoEventStore, mongo: Mongo) -> None:
    store.insert(FULL)
    [process] = mongo.processes()
    process.send_signal(signal.SIGSTOP)
    while process.status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    started = time.monotonic()
    try:
        with pytest.raises(Unavailable):
            store.get(FULL.id)
    finally:
        process.send_signal(signal.SIGCONT)

    assert time.monotonic() - started < OPERATION_LIMIT_MS / 1000 + 10
    assert store.get(FULL.id) == FULL


def test_migrating_again_changes_nothing_also_twice_at_once(
    store: MongoEventStore, mongo: Mongo
) -> None:
    store.insert(FULL)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: mongodb.apply(mongo.migrate_settings()), range(4)))

    assert store.get(FULL.id) == FULL


def test_two_first_migrations_at_once(mongo: Mongo) -> None:
    with mongo.admin() as admin:
        admin.drop_database(DATABASE)
        admin.admin.command("dropUser", EVENT.username)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: mongodb.apply(mongo.migrate_settings()), range(2)))

    with mongo.admin() as admin:
        collection = next(
            found for found in admin[DATABASE].list_collections() if found["name"] == COLLECTION
        )
        assert "$jsonSchema" in collection["options"]["validator"]
        assert len(admin[DATABASE][COLLECTION].index_information()) == 11
    with connect_as(mongo.url, EVENT) as client:
        assert client[DATABASE][COLLECTION].count_documents({}) == 0


def test_older_rules_are_replaced(mongo: Mongo) -> None:
    with mongo.admin() as admin:
        admin[DATABASE].command("collMod", COLLECTION, validator={})

    mongodb.apply(mongo.migrate_settings())

    with mongo.admin() as admin, pytest.raises(WriteError, match="failed validation"):
        admin[DATABASE][COLLECTION].insert_one({})


def test_events_of_an_older_version_are_made_searchable(
    store: MongoEventStore, mongo: Mongo
) -> None:
    store.insert(FULL)
    store.insert(BARE)
    with mongo.admin() as admin:
        events = admin[DATABASE][COLLECTION]
        events.update_many({}, {"$unset": {"search": "", "sale_version": ""}})
        events.create_index([("created_at", -1), ("_id", -1)], name="newest_first")

        mongodb.apply(mongo.migrate_settings())

        assert "newest_first" not in events.index_information()
    assert {event.id for event in store.page(ListQuery(q="CONCERT")).events} == {FULL.id, BARE.id}
    assert [event.id for event in store.page(ListQuery(category="Music")).events] == [FULL.id]


def test_a_key_goes_by_itself_after_a_day(mongo: Mongo) -> None:
    with mongo.admin() as admin:
        indexes = admin[DATABASE][KEYS_COLLECTION].index_information()

    assert indexes["expiry"]["key"] == [("created_at", 1)]
    assert indexes["expiry"]["expireAfterSeconds"] == 24 * 60 * 60


def test_the_first_of_equal_keys_stays(store: MongoEventStore) -> None:
    keys = [CreationKey("the-key", f"body-{n}", f"{n:024x}", NOW) for n in range(8)]

    with ThreadPoolExecutor(8) as pool:
        kept = set(pool.map(store.claim_key, keys))

    assert len(kept) == 1
    assert store.key("the-key") in kept
    assert store.key("another") is None


def test_an_event_is_kept_once(store: MongoEventStore) -> None:
    assert store.insert(FULL)
    assert not store.insert(replace(FULL, title="Another"))
    assert store.get(FULL.id) == FULL


def test_a_change_needs_the_event_as_it_was_known(store: MongoEventStore) -> None:
    store.insert(FULL)
    known = store.load(FULL.id)
    assert known == KeptEvent(FULL, sale_version=1, prepared=None)
    changed = replace(FULL, title="Gala", version=2)

    assert store.replace(known, changed)
    assert not store.replace(known, changed)
    assert not store.prepare(known, changed)
    assert store.load(FULL.id) == KeptEvent(changed, sale_version=2, prepared=None)
    assert [event.title for event in store.page(ListQuery(q="gala")).events] == ["Gala"]
    assert store.page(ListQuery(q="concert")).events == []


def test_what_is_prepared_is_shown_once_it_is_finished(store: MongoEventStore) -> None:
    store.insert(BARE)
    known = store.load(BARE.id)
    assert known is not None
    changed = replace(FULL, id=BARE.id, title="Gala", version=2)

    assert store.prepare(known, changed)
    assert not store.prepare(known, changed)
    assert not store.replace(known, changed)
    assert store.get(BARE.id) == BARE
    assert store.load(BARE.id) == KeptEvent(BARE, sale_version=2, prepared=changed)
    assert store.finish(BARE.id, 3) is None
    assert store.finish(BARE.id, 2) == changed
    assert store.finish(BARE.id, 2) is None
    assert store.load(BARE.id) == KeptEvent(changed, sale_version=2, prepared=None)
    assert len(store.page(ListQuery(q="gala")).events) == 1


def test_a_version_that_was_given_up_is_not_used_again(store: MongoEventStore) -> None:
    store.insert(BARE)
    known = store.load(BARE.id)
    assert known is not None
    store.prepare(known, replace(BARE, title="Gala", version=2))

    store.give_up(BARE.id, 3, sale_version=9)
    assert store.load(BARE.id) != KeptEvent(BARE, sale_version=9, prepared=None)
    store.give_up(BARE.id, 2, sale_version=2)

    given_up = store.load(BARE.id)
    assert given_up == KeptEvent(BARE, sale_version=2, prepared=None)
    assert given_up.next_version == 3
    assert not store.prepare(known, replace(BARE, version=2))
    assert store.prepare(given_up, replace(BARE, version=3))


def test_of_all_changes_at_once_one_is_prepared(store: MongoEventStore) -> None:
    store.insert(FULL)
    known = store.load(FULL.id)
    assert known is not None
    changes = [replace(FULL, title=f"{n}", version=2) for n in range(8)]

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda changed: store.prepare(known, changed), changes))

    assert done.count(True) == 1
    assert store.finish(FULL.id, 2) == changes[done.index(True)]


def test_a_new_password_takes_the_place_of_the_old(mongo: Mongo) -> None:
    mongodb.apply(mongo.migrate_settings("another"))
    try:
        with connect_as(mongo.url, Credentials(EVENT.username, "another")) as client:
            assert client[DATABASE][COLLECTION].count_documents({}) == 0
        with (
            connect_as(mongo.url, EVENT) as client,
            pytest.raises(OperationFailure, match="Authentication failed"),
        ):
            client[DATABASE][COLLECTION].count_documents({})
    finally:
        mongodb.apply(mongo.migrate_settings())


def test_the_user_may_do_nothing_elsewhere(
    open_client: Callable[[], MongoClient[Document]],
) -> None:
    with open_client() as client:
        for refused in (
            lambda: client["other"][COLLECTION].insert_one({}),
            lambda: client.admin.command("createUser", "x", pwd="x", roles=["root"]),
            client["local"]["oplog.rs"].find_one,
        ):
            with pytest.raises(OperationFailure, match="not authorized"):
                refused()


def test_without_a_login_nothing_is_shown(mongo: Mongo) -> None:
    with (
        connect_as(mongo.url, Credentials("", "")) as client,
        pytest.raises(OperationFailure, match="requires authentication"),
    ):
        client[DATABASE][COLLECTION].find_one()
