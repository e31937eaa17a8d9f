"""MongoDB with the events collection, as the migrate task leaves it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pymongo import MongoClient

from event.store import COLLECTION, KEYS_COLLECTION, Document, MongoEventStore, connect
from migrate import mongodb
from migrate.settings import MigrateSettings
from supervisor import cloud, processes
from supervisor.secrets import read
from supervisor.settings import Settings
from tests.integration import servers
from tests.integration.servers import Server
from tests.ports import instance_ports
from ticketra.secrets import Credentials

DATABASE = "events"
EVENT = Credentials("event", "only-for-tests")


class Mongo:
    """A MongoDB server of its own."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home).with_ports(instance_ports())
        self.url = (
            f"mongodb://127.0.0.1:{self.settings.mongodb_port}/"
            "?replicaSet=rs0&directConnection=true"
        )

    def start(self) -> None:
        cloud.up(self.settings, only={"mongodb"})

    def stop(self) -> None:
        cloud.down(self.settings)

    def processes(self) -> list[Any]:
        return processes.marked(self.settings.home)

    def admin(self) -> MongoClient[Document]:
        login = read(self.settings).login("mongodb/admin")
        return MongoClient(self.url, username=login.username, password=login.password)

    def migrate_settings(self, password: str = EVENT.password) -> MigrateSettings:
        login = read(self.settings).login("mongodb/admin")
        unused = SecretStr("not used")
        return MigrateSettings(
            postgres_url="postgresql://not-used",
            postgres_username="not used",
            postgres_password=unused,
            postgres_identity_username="identity",
            postgres_identity_password=unused,
            postgres_booking_username="booking",
            postgres_booking_password=unused,
            postgres_payment_username="payment",
            postgres_payment_password=unused,
            mongodb_url=self.url,
            mongodb_username=login.username,
            mongodb_password=SecretStr(login.password),
            mongodb_event_username=EVENT.username,
            mongodb_event_password=SecretStr(password),
            mongodb_database=DATABASE,
        )


@pytest.fixture(scope="package")
def server() -> Iterator[Mongo]:
    home = Path(tempfile.mkdtemp(prefix="ticketra-test-mongodb-"))
    mongo = Mongo(home)
    try:
        mongo.start()
        mongodb.apply(mongo.migrate_settings())
        yield mongo
    finally:
        mongo.stop()
        shutil.rmtree(home)


@pytest.fixture
def mongo(server: Mongo) -> Mongo:
    """The server, running and without events."""
    server.start()
    with server.admin() as admin:
        for collection in (COLLECTION, KEYS_COLLECTION):
            admin[DATABASE][collection].delete_many({})
    return server


@pytest.fixture(scope="package")
def redis() -> Iterator[Server]:
    """A Redis."""
    with servers.redis_server() as server:
        yield server


@pytest.fixture
def open_client(mongo: Mongo) -> Callable[[], MongoClient[Document]]:
    return lambda: connect(mongo.url, EVENT)


@pytest.fixture
def store(open_client: Callable[[], MongoClient[Document]]) -> Iterator[MongoEventStore]:
    store = MongoEventStore(open_client, DATABASE)
    yield store
    store.close()
