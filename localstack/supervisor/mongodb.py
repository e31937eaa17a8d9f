"""MongoDB: the server from a wheel, as a replica set of one, because transactions need a set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError
from typing_extensions import override

from supervisor.private_file import write_private
from supervisor.server import NotReadyError, Server, ServerError, without_login
from supervisor.settings import ENVIRONMENTS, LOOPBACK

ANSWER_TIMEOUT_MS = 2000
CACHE_SIZE_GB = 0.25
OPLOG_SIZE_MB = 128
QUIESCE_MS = 100
REPLICA_SET = "rs0"

_PROGRAM = ENVIRONMENTS / "mongodb" / "fiftyone" / "db" / "bin" / "mongod"
_UNAUTHORIZED = 13
_ALREADY_INITIALIZED = 23


class MongoDB(Server):
    """One mongod."""

    name = "mongodb"
    title = "MongoDB"
    ports = ("mongodb_port",)
    start_timeout_s = 60.0
    stop_timeout_s = 30.0

    @property
    @override
    def url_elsewhere(self) -> str:
        return self.settings.mongodb_url

    @property
    @override
    def address(self) -> str:
        own = f"mongodb://{self._member}/?replicaSet={REPLICA_SET}&directConnection=true"
        return without_login(self.url_elsewhere) or own

    @override
    def prepare(self) -> None:
        if not _PROGRAM.exists():
            raise ServerError("MongoDB is not set up; `make up` does that.")
        self.data.mkdir(mode=0o700, exist_ok=True)
        write_private(self._key_file, self.secrets.mongodb_key)

    @override
    def command(self) -> Sequence[str | Path]:
        return [
            _PROGRAM,
            *("--dbpath", self.data),
            *("--bind_ip", LOOPBACK),
            *("--port", str(self.settings.mongodb_port)),
            *("--replSet", REPLICA_SET),
            *("--wiredTigerCacheSizeGB", str(CACHE_SIZE_GB)),
            *("--oplogSize", str(OPLOG_SIZE_MB)),
            "--nounixsocket",
            *("--networkMessageCompressors", "disabled"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            # A set of one has nobody to hand over to.
            *("--setParameter", f"shutdownTimeoutMillisForSignaledShutdown={QUIESCE_MS}"),
            "--auth",
            *("--keyFile", self._key_file),
        ]

    @override
    def check(self) -> None:
        try:
            with self._client(authenticated=True) as client:
                if not client.admin.command("hello").get("isWritablePrimary"):
                    raise NotReadyError("it is not yet a writable primary")
                client.admin.command("ping")
        except PyMongoError as error:
            raise NotReadyError(str(error)) from None

    @override
    def settle(self) -> None:
        """Make the replica set and its administrator, or give the set the present port."""
        try:
            with self._client(authenticated=False) as client:
                self._settle(client)
        except OperationFailure as error:
            if error.code not in {_UNAUTHORIZED, _ALREADY_INITIALIZED}:
                raise ServerError(f"MongoDB could not be prepared: {error}") from None
        except PyMongoError:
            return  # it does not answer yet; the check says so if it stays like this

    def _settle(self, client: MongoClient[dict[str, Any]]) -> None:
        hello = client.admin.command("hello")
        if hello.get("isWritablePrimary"):
            self._make_administrator(client)
        elif hello.get("info") == "Does not have a valid replica set config":
            self._initiate_or_move(client)

    def _initiate_or_move(self, client: MongoClient[dict[str, Any]]) -> None:
        members = [{"_id": 0, "host": self._member}]
        try:
            client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": members})
        except OperationFailure as error:
            if error.code not in {_UNAUTHORIZED, _ALREADY_INITIALIZED}:
                raise
            with self._client(authenticated=True) as administrator:
                current = administrator.admin.command("replSetGetConfig")["config"]
                moved = {**current, "version": current["version"] + 1, "members": members}
                administrator.admin.command("replSetReconfig", moved, force=True)

    def _make_administrator(self, client: MongoClient[dict[str, Any]]) -> None:
        """Use MongoDB's localhost exception, which ends with the first user."""
        login = self.secrets.login("mongodb/admin")
        client.admin.command(
            "createUser",
            login.username,
            pwd=login.password,
            roles=[{"role": "root", "db": "admin"}],
        )

    def _client(self, *, authenticated: bool) -> MongoClient[dict[str, Any]]:
        login = self.secrets.login("mongodb/admin")
        options: dict[str, Any] = {
            "serverSelectionTimeoutMS": ANSWER_TIMEOUT_MS,
            "connectTimeoutMS": ANSWER_TIMEOUT_MS,
            "socketTimeoutMS": ANSWER_TIMEOUT_MS,
        }
        if self.url_elsewhere:
            return MongoClient(self.url_elsewhere, **options)
        if authenticated:
            options |= {"username": login.username, "password": login.password}
        return MongoClient(LOOPBACK, self.settings.mongodb_port, directConnection=True, **options)

    @property
    def _member(self) -> str:
        return f"{LOOPBACK}:{self.settings.mongodb_port}"

    @property
    def _key_file(self) -> Path:
        return self.settings.run / "mongodb.key"
