"""Events in MongoDB, over one connection for each execution environment."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from typing import Any

from bson import ObjectId
from bson.int64 import Int64
from pymongo import DESCENDING, MongoClient
from pymongo.collection import Collection
from pymongo.errors import ConnectionFailure, PyMongoError

from event.models import Event, Money
from ticketra.errors import Unavailable
from ticketra.secrets import Credentials

COLLECTION = "events"
OPERATION_LIMIT_MS = 3_000  # choosing a server, sending, and one retry, all together
RETRY_AFTER_S = 2
NEWEST_FIRST = [("created_at", DESCENDING), ("_id", DESCENDING)]

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

    def insert(self, event: Event) -> None:
        """Keep a new event."""
        with _away_as_refusal():
            self._events.insert_one(_document(event))

    def get(self, event_id: str) -> Event | None:
        """Return the event with this id."""
        if not ObjectId.is_valid(event_id):
            return None
        with _away_as_refusal():
            document = self._events.find_one({"_id": ObjectId(event_id)})
        return None if document is None else _event(document)

    def page(self, *, skip: int, limit: int) -> Sequence[Event]:
        """Return events, newest first."""
        with _away_as_refusal():
            found = self._events.find().sort(NEWEST_FIRST).skip(skip).limit(limit)
            return [_event(document) for document in found]

    def count(self) -> int:
        """Return how many events there are, from the collection's own count: no scan."""
        with _away_as_refusal():
            return self._events.estimated_document_count()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @cached_property
    def _client(self) -> MongoClient[Document]:
        return self._open_client()

    @cached_property
    def _events(self) -> Collection[Document]:
        return self._client[self._database][COLLECTION]


def _document(event: Event) -> Document:
    document = asdict(event)
    document["_id"] = ObjectId(document.pop("id"))
    document["version"] = Int64(event.version)
    if event.price is not None:
        document["price"] = {
            "amount_minor": Int64(event.price.amount_minor),
            "currency": event.price.currency,
        }
    return document


def _event(document: Document) -> Event:
    fields = dict(document)
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
