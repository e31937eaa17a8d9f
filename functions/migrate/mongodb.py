"""MongoDB: the events collection, its rules and indexes, and the event function's user."""

from typing import Any

from pymongo import DESCENDING, IndexModel, MongoClient
from pymongo.database import Database
from pymongo.errors import OperationFailure

from migrate.settings import MigrateSettings

CONNECT_TIMEOUT_MS = 5_000
OPERATION_LIMIT_MS = 60_000
COLLECTION = "events"
NAMESPACE_EXISTS, USER_EXISTS = 48, 51003  # the server's error codes
USERS_DATABASE = "admin"  # where clients look for a user unless their URL says otherwise

Document = dict[str, Any]

_TEXT = {"bsonType": "string", "minLength": 1}
_TEXT_OR_NULL = {"bsonType": ["string", "null"], "minLength": 1}
_COUNT_OR_NULL = {"bsonType": ["int", "null"], "minimum": 1}
_DATE_OR_NULL = {"bsonType": ["date", "null"]}

# The function checks what clients send; this stands behind it, as constraints do in PostgreSQL.
_SCHEMA: Document = {
    "bsonType": "object",
    "additionalProperties": False,
    "properties": {
        "_id": {"bsonType": "objectId"},
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
    },
}
_SCHEMA["required"] = list(_SCHEMA["properties"])

_INDEXES = [
    IndexModel([("created_at", DESCENDING), ("_id", DESCENDING)], name="newest_first"),
]


def apply(settings: MigrateSettings) -> None:
    """Bring the collection, its rules, its indexes and the function's user to the present shape.

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
        database[COLLECTION].create_indexes(_INDEXES)
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
