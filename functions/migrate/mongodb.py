"""MongoDB: the events collection and the user that the event function logs in as."""

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import CollectionInvalid

from migrate.settings import MigrateSettings

CONNECT_TIMEOUT_MS = 5_000
COLLECTION = "events"


def apply(settings: MigrateSettings) -> None:
    """Create the collection and the event function's user if they are missing.

    Raises:
        pymongo.errors.PyMongoError: the server is away, or refused a command.

    """
    client: MongoClient[dict[str, object]] = MongoClient(
        settings.mongodb_url,
        serverSelectionTimeoutMS=CONNECT_TIMEOUT_MS,
        username=settings.mongodb_username or None,
        password=settings.mongodb_password.get_secret_value() or None,
    )
    with client:
        database = client[settings.mongodb_database]
        _ensure_collection(database)
        _ensure_user(database, settings)


def _ensure_collection(database: Database[dict[str, object]]) -> None:
    try:
        database.create_collection(COLLECTION)
    except CollectionInvalid:
        return  # it is there already


def _ensure_user(database: Database[dict[str, object]], settings: MigrateSettings) -> None:
    name = settings.mongodb_event_username
    known = database.command("usersInfo", name)["users"]
    database.command(
        "updateUser" if known else "createUser",
        name,
        pwd=settings.mongodb_event_password.get_secret_value(),
        roles=[{"role": "readWrite", "db": settings.mongodb_database}],
    )
