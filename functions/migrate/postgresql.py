"""PostgreSQL: databases, login roles, and plain SQL files applied in order, each once.

Two runs at the same time are safe: each step holds an advisory lock, and the second run finds the
work done.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from pydantic import SecretStr

from migrate.settings import MigrateSettings
from ticketra.log import logger

CONNECT_TIMEOUT_S = 5
LOCK_WAIT_S = 60
STATEMENT_TIMEOUT_S = 300
ADVISORY_LOCK = 0x7469636B
MAINTENANCE_DATABASE = "postgres"
FILE_NAME = re.compile(r"(?P<number>\d{4})_[a-z0-9_]+\.sql")
ROOT = Path(__file__).parent

_CREATE_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name       text PRIMARY KEY,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class MigrationError(Exception):
    """The files and what was applied before do not fit together."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered SQL file."""

    name: str
    checksum: str
    statements: str


@dataclass(frozen=True, slots=True)
class Role:
    """A login role of one service, and the database that it may connect to."""

    name: str
    password: SecretStr
    database: str


def apply(settings: MigrateSettings, root: Path = ROOT) -> None:
    """Create what is missing and apply the files under `root`/<database> that were not applied yet.

    Raises:
        MigrationError: a file that was applied has changed or is gone, or its name is wrong.
        psycopg.Error: the server is away, or refused a statement.

    """
    roles = _roles(settings)
    databases = sorted({role.database for role in roles})
    migrations = {database: load(root / database) for database in databases}
    with _locked(settings, MAINTENANCE_DATABASE) as connection:
        for database in databases:
            _ensure_database(connection, database)
        for role in roles:
            _ensure_role(connection, role)
        for database in databases:
            _restrict_database(connection, database, roles)
    for database in databases:
        with _locked(settings, database) as connection:
            _apply_pending(connection, database, migrations[database])


def load(directory: Path) -> list[Migration]:
    """Return the migrations in `directory`, in order of their numbers.

    Raises:
        MigrationError: a file has no number of its own.

    """
    found: dict[str, Migration] = {}
    for path in sorted(directory.glob("*.sql")):
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path}: a migration is named NNNN_words.sql")
        if match["number"] in found:
            raise MigrationError(f"{path}: the number {match['number']} is taken")
        text = path.read_text(encoding="utf-8")
        checksum = hashlib.sha256(text.encode()).hexdigest()
        found[match["number"]] = Migration(path.name, checksum, text)
    return list(found.values())


def pending(migrations: Sequence[Migration], applied: dict[str, str]) -> list[Migration]:
    """Return the migrations that are not in `applied` (name to checksum).

    Raises:
        MigrationError: an applied file has changed or is gone.

    """
    checksums = {migration.name: migration.checksum for migration in migrations}
    for name, checksum in applied.items():
        if name not in checksums:
            raise MigrationError(f"{name} was applied, but the file is gone")
        if checksums[name] != checksum:
            raise MigrationError(f"{name} was applied and has changed since: write a new file")
    return [migration for migration in migrations if migration.name not in applied]


def _roles(settings: MigrateSettings) -> list[Role]:
    return [
        Role(settings.postgres_identity_username, settings.postgres_identity_password, "auth"),
        Role(settings.postgres_booking_username, settings.postgres_booking_password, "orders"),
        Role(settings.postgres_payment_username, settings.postgres_payment_password, "orders"),
    ]


@contextmanager
def _locked(settings: MigrateSettings, database: str) -> Iterator[psycopg.Connection]:
    """Open an autocommit connection that holds the migrations' advisory lock of `database`.

    Session locks are kept for each database, so a run holds one lock at a time.
    """
    with psycopg.connect(
        settings.postgres_url,
        dbname=database,
        user=settings.postgres_username,
        password=settings.postgres_password.get_secret_value(),
        connect_timeout=CONNECT_TIMEOUT_S,
        application_name="migrate",
        options=f"-c statement_timeout={STATEMENT_TIMEOUT_S}s -c lock_timeout={LOCK_WAIT_S}s",
        autocommit=True,
    ) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
        yield connection


def _ensure_database(connection: psycopg.Connection, name: str) -> None:
    found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
    if found is None:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(
                sql.Identifier(name)
            )
        )
        logger.info("created database", extra={"database": name})


def _ensure_role(connection: psycopg.Connection, role: Role) -> None:
    found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role.name]).fetchone()
    action = "CREATE" if found is None else "ALTER"
    # The verifier is computed here, so that the server's log cannot show the password.
    verifier = connection.pgconn.encrypt_password(
        role.password.get_secret_value().encode(), role.name.encode(), b"scram-sha-256"
    )
    connection.execute(
        sql.SQL("{} ROLE {} LOGIN NOINHERIT PASSWORD {}").format(
            sql.SQL(action), sql.Identifier(role.name), sql.Literal(verifier.decode())
        )
    )


def _restrict_database(
    connection: psycopg.Connection, database: str, roles: Sequence[Role]
) -> None:
    """Let only the roles of `database` connect to it."""
    target = sql.Identifier(database)
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(target))
    for role in roles:
        if role.database == database:
            connection.execute(
                sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
                    target, sql.Identifier(role.name)
                )
            )


def _apply_pending(
    connection: psycopg.Connection, database: str, migrations: Sequence[Migration]
) -> None:
    connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    connection.execute(_CREATE_HISTORY)
    applied: dict[str, str] = dict(
        connection.execute("SELECT name, checksum FROM schema_migrations").fetchall()
    )
    for migration in pending(migrations, applied):
        with connection.transaction():
            # A file is trusted text of this repository and may hold several statements.
            connection.execute(migration.statements.encode())
            connection.execute(
                "INSERT INTO schema_migrations (name, checksum) VALUES (%s, %s)",
                [migration.name, migration.checksum],
            )
        logger.info("applied migration", extra={"database": database, "migration": migration.name})
