"""MongoDB: the event function's collections, their rules and indexes, and its user."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel, MongoClient, UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure

from migrate.settings import MigrateSettings
from ticketra.text import search_fields

CONNECT_TIMEOUT_MS = 5_000
OPERATION_LIMIT_MS = 60_000
COLLECTION = "events"
KEYS_COLLECTION = "idempotency_keys"
KEY_TTL_S = 24 * 60 * 60
BATCH_LIMIT = 500
INDEX_NOT_FOUND, NAMESPACE_EXISTS, USER_EXISTS = 27, 48, 51003  # the server's error codes
USERS_DATABASE = "admin"  # where clients look for a user unless their URL says otherwise

Document = dict[str, Any]

_TEXT = {"bsonType": "string", "minLength": 1}
_TEXT_OR_NULL = {"bsonType": ["string", "null"], "minLength": 1}
_COUNT_OR_NULL = {"bsonType": ["int", "null"], "minimum": 1}
_DATE_OR_NULL = {"bsonType": ["date", "null"]}

# The function checks what clients send; this stands behind it, as constraints do in PostgreSQL.
_EVENT: Document = {
    "title": _TEXT,
    "description": _TEXT_OR_NULL,
    "category": _TEXT_OR_NULL,
    "location": _TEXT,
    "date": {"bsonType": "date"},
    "total_tickets": {"bsonType": "int", "minimum": 1},
    "price": {
        "bsonType": ["object", "null"],
        "additionalProperties": False,
        "required": ["amount_minor", "currency"],
        "properties": {
            "amount_minor": {"bsonType": "long", "minimum": 0},
            "currency": {"bsonType": "string", "pattern": "^[A-Z]{3}$"},
        },
    },
    "sales_start": _DATE_OR_NULL,
    "sales_end": _DATE_OR_NULL,
    "max_per_booking": _COUNT_OR_NULL,
    "max_per_user": _COUNT_OR_NULL,
    "status": {"enum": ["SCHEDULED", "CANCELLED"]},
    "organizer_id": _TEXT,
    "version": {"bsonType": "long", "minimum": 1},
    "created_at": {"bsonType": "date"},
    "updated_at": {"bsonType": "date"},
}
# What an event may have beside its own fields; see `event.store`.
_BESIDE: Document = {
    "search": {
        "bsonType": "object",
        "additionalProperties": False,
        "required": ["words", "location", "category"],
        "properties": {
            "words": {"bsonType": "array", "items": {"bsonType": "string"}},
            "location": {"bsonType": "string"},
            "category": {"bsonType": ["string", "null"]},
        },
    },
    "sale_version": {"bsonType": "long", "minimum": 1},
    "prepared": {
        "bsonType": "object",
        "additionalProperties": False,
        "required": list(_EVENT),
        "properties": _EVENT,
    },
}
_SCHEMA: Document = {
    "bsonType": "object",
    "additionalProperties": False,
    "required": ["_id", *_EVENT],
    "properties": {"_id": {"bsonType": "objectId"}, **_EVENT, **_BESIDE},
}

_NARROWED_BY = {
    "all": (),
    "organizer": ("organizer_id",),
    "words": ("search.words",),
    "location": ("search.location",),
    "category": ("search.category",),
}


def _indexes() -> Iterator[IndexModel]:
    """One index for each way to narrow a list and each order: no list sorts in memory."""
    for name, fields in _NARROWED_BY.items():
        narrowed = [(field, ASCENDING) for field in (*fields, "status")]
        newest = [("created_at", DESCENDING), ("_id", DESCENDING), ("date", ASCENDING)]
        yield IndexModel([*narrowed, *newest], name=f"{name}_newest")
        yield IndexModel([*narrowed, ("date", ASCENDING), ("_id", ASCENDING)], name=f"{name}_date")


_OLD_INDEXES = ("newest_first",)


def apply(settings: MigrateSettings) -> None:
    """Bring the collections, their rules, indexes and the function's user to the present shape.

    It may run again at any time, and twice at once.

    Raises:
        pymongo.errors.PyMongoError: the server is away, or refused a command.

    """
    client: MongoClient[Document] = MongoClient(
        settings.mongodb_url,
        serverSelectionTimeoutMS=CONNECT_TIMEOUT_MS,
        timeoutMS=OPERATION_LIMIT_MS,
        appname="migrate",
        username=settings.mongodb_username or None,
        password=settings.mongodb_password.get_secret_value() or None,
    )
    with client:
        database = client[settings.mongodb_database]
        _ensure_collection(database)
        _make_searchable(database[COLLECTION])
        database[COLLECTION].create_indexes(list(_indexes()))
        for name in _OLD_INDEXES:
            _drop_index(database[COLLECTION], name)
        database[KEYS_COLLECTION].create_index(
            "created_at", name="expiry", expireAfterSeconds=KEY_TTL_S
        )
        if settings.mongodb_username:
            _ensure_user(client[USERS_DATABASE], settings)


def _ensure_collection(database: Database[Document]) -> None:
    rules: Document = {"validator": {"$jsonSchema": _SCHEMA}, "validationLevel": "strict"}
    try:
        database.create_collection(COLLECTION, check_exists=False, **rules)
    except OperationFailure as error:
        if error.code != NAMESPACE_EXISTS:
            raise
        database.command("collMod", COLLECTION, **rules)  # it may have older rules


def _make_searchable(events: Collection[Document]) -> None:
    """Give the events of an older version what they are found by."""
    texts = ("title", "location", "category", "description")
    found = events.find({"search": {"$exists": False}}, texts, batch_size=BATCH_LIMIT)
    updates = (
        UpdateOne(
            {"_id": event["_id"], "search": {"$exists": False}},
            {"$set": {"search": search_fields(**{name: event[name] for name in texts})}},
        )
        for event in found
    )
    while batch := list(islice(updates, BATCH_LIMIT)):
        events.bulk_write(batch, ordered=False)


def _drop_index(events: Collection[Document], name: str) -> None:
    try:
        events.drop_index(name)
    except OperationFailure as error:
        if error.code != INDEX_NOT_FOUND:
            raise


def _ensure_user(users: Database[Document], settings: MigrateSettings) -> None:
    """Let the function's user read and write the events database, with the present password."""
    rights: Document = {
        "pwd": settings.mongodb_event_password.get_secret_value(),
        "roles": [{"role": "readWrite", "db": settings.mongodb_database}],
    }
    name = settings.mongodb_event_username
    try:
        users.command("createUser", name, **rights)
    except OperationFailure as error:
        if error.code != USER_EXISTS:
            raise
        users.command("updateUser", name, **rights)
