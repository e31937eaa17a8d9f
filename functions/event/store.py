"""Events in MongoDB, over one connection for each execution environment."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from functools import cached_property
from typing import Any

import pymongo
from bson import ObjectId
from bson.int64 import Int64
from pymongo import MongoClient, ReturnDocument
from pymongo.collection import Collection
from pymongo.errors import (
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    PyMongoError,
)

from event.listing import COUNT_LIMIT, Listing, ListQuery, Total
from event.models import CreationKey, Event, KeptEvent, Money
from event.query import Plan, plan
from ticketra.errors import Unavailable
from ticketra.secrets import Credentials
from ticketra.text import search_fields

COLLECTION = "events"
KEYS_COLLECTION = "idempotency_keys"
OPERATION_LIMIT_MS = 3_000  # choosing a server, sending, and one retry, all together
LIST_LIMIT_MS = 2_000  # below OPERATION_LIMIT_MS: the server says so, rather than nothing
COUNT_LIMIT_MS = 500
RETRY_AFTER_S = 2

Document = dict[str, Any]


def connect(url: str, credentials: Credentials) -> MongoClient[Document]:
    """Return a client for `url`, which holds no credentials; it connects at its first operation."""
    return MongoClient(
        url,
        username=credentials.username or None,
        password=credentials.password or None,
        appname="event",
        maxPoolSize=1,
        timeoutMS=OPERATION_LIMIT_MS,
        socketTimeoutMS=OPERATION_LIMIT_MS,
        serverSelectionTimeoutMS=OPERATION_LIMIT_MS,
        serverMonitoringMode="poll",  # no second connection that waits for news
        retryReads=True,
        retryWrites=True,
        w="majority",
        tz_aware=True,
    )


class MongoEventStore:
    """Keeps events; see `event.logic.EventStore`.

    Every method raises Unavailable when the database is away or too slow.
    """

    def __init__(self, open_client: Callable[[], MongoClient[Document]], database: str) -> None:
        self._open_client = open_client
        self._database = database

    def get(self, event_id: str) -> Event | None:
        """Return the event with this id."""
        known = self.load(event_id)
        return None if known is None else known.event

    def load(self, event_id: str) -> KeptEvent | None:
        """Return the event with this id, and what is going on with it."""
        if not ObjectId.is_valid(event_id):
            return None
        with _away_as_refusal():
            document = self._events.find_one({"_id": ObjectId(event_id)})
        return None if document is None else _kept(document)

    def page(self, query: ListQuery) -> Listing:
        """Return the page of events that `query` asks for."""
        how = plan(query)
        with _away_as_refusal(), _slow_as_refusal(), _own_time_limit():
            found = list(
                self._events.find(how.filter)
                .sort(how.order)
                .hint(how.index)
                .skip((query.page_number - 1) * query.limit)
                .limit(query.limit + 1)
                .max_time_ms(LIST_LIMIT_MS)
            )
        events = [_event(document) for document in found[: query.limit]]
        more = len(found) > query.limit
        return Listing(events, more, self._total(query, how, len(found)))

    def insert(self, event: Event) -> bool:
        """Keep a new event; False: there is one with this id already."""
        document = {"_id": ObjectId(event.id), **_searchable(event)}
        try:
            with _away_as_refusal():
                self._events.insert_one(document)
        except DuplicateKeyError:
            return False
        return True

    def replace(self, known: KeptEvent, changed: Event) -> bool:
        """Make `known` what it changed to, unless it has changed otherwise."""
        with _away_as_refusal():
            result = self._events.update_one(_as_known(known), {"$set": _searchable(changed)})
        return result.matched_count == 1

    def prepare(self, known: KeptEvent, changed: Event) -> bool:
        """Note what `known` is going to be, unless it has changed otherwise."""
        noted = {"prepared": _fields(changed), "sale_version": Int64(changed.version)}
        with _away_as_refusal():
            result = self._events.update_one(_as_known(known), {"$set": noted})
        return result.matched_count == 1

    def finish(self, event_id: str, version: int) -> Event | None:
        """Make an event what was prepared as `version`, if that is still prepared."""
        prepared = {"_id": ObjectId(event_id), "prepared.version": version}
        with _away_as_refusal():
            document = self._events.find_one(prepared)
            if document is None:
                return None
            changed = _event({"_id": document["_id"], **document["prepared"]})
            finished = self._events.find_one_and_update(
                prepared,
                {"$set": _searchable(changed), "$unset": {"prepared": ""}},
                return_document=ReturnDocument.AFTER,
            )
        return None if finished is None else _event(finished)

    def give_up(self, event_id: str, version: int, *, sale_version: int) -> None:
        """Forget what was prepared as `version`, but not how far its sale may have come."""
        with _away_as_refusal():
            self._events.update_one(
                {"_id": ObjectId(event_id), "prepared.version": version},
                {"$unset": {"prepared": ""}, "$max": {"sale_version": Int64(sale_version)}},
            )

    def key(self, key_id: str) -> CreationKey | None:
        """Return the key with this id."""
        with _away_as_refusal():
            document = self._keys.find_one({"_id": key_id})
        return None if document is None else _key(document)

    def claim_key(self, key: CreationKey) -> CreationKey:
        """Keep a new key; of several at once the first stays."""
        document = asdict(key)
        with _away_as_refusal():
            kept: Document | None = self._keys.find_one_and_update(
                {"_id": document.pop("id")},
                {"$setOnInsert": document},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        assert kept is not None  # it was there, or it is now
        return _key(kept)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @cached_property
    def _client(self) -> MongoClient[Document]:
        return self._open_client()

    @cached_property
    def _events(self) -> Collection[Document]:
        return self._client[self._database][COLLECTION]

    @cached_property
    def _keys(self) -> Collection[Document]:
        return self._client[self._database][KEYS_COLLECTION]

    def _total(self, query: ListQuery, how: Plan, found: int) -> Total | None:
        """Return how many events there are, or how many there are at least where that is dear."""
        if not query.counts:
            return None
        try:
            with _away_as_refusal(), _own_time_limit():
                count = self._events.count_documents(
                    how.filter,
                    limit=COUNT_LIMIT + 1,
                    hint=how.index,
                    maxTimeMS=COUNT_LIMIT_MS,
                )
        except Unavailable:
            seen = (query.page_number - 1) * query.limit + found
            return Total(seen if found else 0, exact=0 < found <= query.limit)
        return Total(min(count, COUNT_LIMIT), exact=count <= COUNT_LIMIT)


_BESIDE = frozenset({"search", "sale_version", "prepared"})  # what is no field of an event


def _as_known(known: KeptEvent) -> Document:
    """Return the filter for an event that nobody has changed, nor begun to change."""
    version, sale_version = known.event.version, known.sale_version
    return {
        "_id": ObjectId(known.event.id),
        "version": version,
        "prepared": {"$exists": False},
        # An event that was never changed does not name its sale's version: it is its own.
        "sale_version": {"$in": [sale_version, None]} if sale_version == version else sale_version,
    }


def _searchable(event: Event) -> Document:
    return _fields(event) | {
        "search": search_fields(
            title=event.title,
            location=event.location,
            category=event.category,
            description=event.description,
        )
    }


def _fields(event: Event) -> Document:
    document = asdict(event)
    del document["id"]
    document["version"] = Int64(event.version)
    if event.price is not None:
        document["price"] = {
            "amount_minor": Int64(event.price.amount_minor),
            "currency": event.price.currency,
        }
    return document


def _kept(document: Document) -> KeptEvent:
    event = _event(document)
    prepared = document.get("prepared")
    return KeptEvent(
        event,
        sale_version=int(document.get("sale_version", event.version)),
        prepared=None if prepared is None else _event({"_id": document["_id"], **prepared}),
    )


def _key(document: Document) -> CreationKey:
    return CreationKey(
        document["_id"], document["body_hash"], document["event_id"], document["created_at"]
    )


def _event(document: Document) -> Event:
    fields = {name: value for name, value in document.items() if name not in _BESIDE}
    fields["id"] = str(fields.pop("_id"))
    fields["version"] = int(fields["version"])
    if fields["price"] is not None:
        fields["price"] = Money.model_validate(fields["price"])
    return Event(**fields)


@contextmanager
def _away_as_refusal() -> Iterator[None]:
    try:
        yield
    except PyMongoError as error:
        if not error.timeout and not isinstance(error, ConnectionFailure):
            raise
        raise Unavailable(
            "temporarily_unavailable",
            "Events cannot be reached at the moment: try again shortly.",
            retry_after_s=RETRY_AFTER_S,
        ) from error


def _own_time_limit() -> AbstractContextManager[None]:
    """Let an operation's own time limit count, not the client's.

    The client would tell the server to give up at the moment when it does so itself, and nobody
    could tell a slow query from a server that is away. That server costs two waits here.
    """
    return pymongo.timeout(0)


@contextmanager
def _slow_as_refusal() -> Iterator[None]:
    try:
        yield
    except ExecutionTimeout as error:
        raise Unavailable(
            "list_too_slow",
            "These filters take too long together: narrow them, or sort by date.",
            retry_after_s=RETRY_AFTER_S,
        ) from error
