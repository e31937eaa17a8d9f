"""Events in a real MongoDB: what is kept, what is refused, and what happens when it goes away."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import Int64, ObjectId
from pymongo import MongoClient
from pymongo.errors import OperationFailure, WriteError

from event.models import Event, Money
from event.store import COLLECTION, NEWEST_FIRST, OPERATION_LIMIT_MS, Document, MongoEventStore
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
    price=Money(amount_minor=10**12, currency="TRY"),
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
    assert store.page(skip=0, limit=5) == [event]


@pytest.mark.parametrize("event_id", ["f" * 24, "", "abc", "f" * 25, "\u0000" * 12, "$ne"])
def test_what_is_no_event_is_none(store: MongoEventStore, event_id: str) -> None:
    assert store.get(event_id) is None


def test_pages_come_newest_first_and_the_count_is_of_all(store: MongoEventStore) -> None:
    for minute in (2, 0, 1):
        store.insert(
            replace(
                BARE,
                id=str(ObjectId()),
                created_at=NOW + timedelta(minutes=minute),
                title=f"{minute}",
            )
        )

    assert [event.title for event in store.page(skip=0, limit=2)] == ["2", "1"]
    assert [event.title for event in store.page(skip=2, limit=2)] == ["0"]
    assert store.count() == 3


def test_a_list_reads_its_index_and_sorts_nothing(mongo: Mongo) -> None:
    with mongo.admin() as admin:
        plan = admin[DATABASE][COLLECTION].find().sort(NEWEST_FIRST).limit(20).explain()

    text = str(plan["queryPlanner"]["winningPlan"])
    assert "'newest_first'" in text
    assert "SORT" not in text


@pytest.mark.parametrize(
    "changes",
    [
        {"title": ""}, {"title": 7}, {"total_tickets": 0}, {"total_tickets": 1.5},
        {"date": "2030-01-01"}, {"status": "OVER"}, {"price": {"amount_minor": Int64(1)}},
        {"price": {"amount_minor": Int64(-1), "currency": "EUR"}}, {"organizer_id": None},
        {"max_per_user": 0}, {"version": Int64(0)}, {"more": 1},
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
    for ask in (lambda: store.get(FULL.id), lambda: store.insert(BARE), store.count):
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
        [collection] = admin[DATABASE].list_collections()
        assert "$jsonSchema" in collection["options"]["validator"]
        assert set(admin[DATABASE][COLLECTION].index_information()) == {"_id_", "newest_first"}
    with connect_as(mongo.url, EVENT) as client:
        assert client[DATABASE][COLLECTION].count_documents({}) == 0


def test_older_rules_are_replaced(mongo: Mongo) -> None:
    with mongo.admin() as admin:
        admin[DATABASE].command("collMod", COLLECTION, validator={})

    mongodb.apply(mongo.migrate_settings())

    with mongo.admin() as admin, pytest.raises(WriteError, match="failed validation"):
        admin[DATABASE][COLLECTION].insert_one({})


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
