"""The migrate task against a real PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from migrate.postgresql import ROOT, MigrationError, apply
from tests.integration.booking_task import migrate_settings
from tests.integration.servers import PASSWORD, Server


def connect(
    server: Server, database: str, user: str, password: str = PASSWORD
) -> psycopg.Connection[Any]:
    return psycopg.connect(f"{server.url}/{database}", user=user, password=password)


def test_two_runs_at_once_and_a_third_one_apply_each_file_once(empty_postgres: Server) -> None:
    settings = migrate_settings(empty_postgres)
    with ThreadPoolExecutor() as pool:
        for run in [pool.submit(apply, settings) for _ in range(2)]:
            run.result()
    apply(settings)
    for database in ("auth", "orders"):
        with connect(empty_postgres, database, empty_postgres.username) as connection:
            applied = connection.execute("SELECT name FROM schema_migrations ORDER BY 1").fetchall()
        assert [row[0] for row in applied] == sorted(p.name for p in (ROOT / database).glob("*"))


def test_a_changed_password_takes_effect(empty_postgres: Server) -> None:
    settings = migrate_settings(empty_postgres)
    apply(settings)
    apply(settings.model_copy(update={"postgres_booking_password": SecretStr("another")}))
    connect(empty_postgres, "orders", "booking", "another").close()
    with pytest.raises(psycopg.OperationalError):
        connect(empty_postgres, "orders", "booking", PASSWORD)
    apply(settings)
    connect(empty_postgres, "orders", "booking", PASSWORD).close()


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("booking", "DELETE FROM bookings"),
        ("booking", "DELETE FROM sales"),
        ("booking", "CREATE TABLE mine (id integer)"),
        ("booking", "SELECT * FROM payment.payments"),
        ("payment", "SELECT * FROM bookings"),
        ("payment", "UPDATE sales SET remaining = 0"),
        ("payment", "CREATE TABLE mine (id integer)"),
    ],
)
def test_a_role_can_do_no_more_than_it_needs(
    empty_postgres: Server, role: str, statement: str
) -> None:
    apply(migrate_settings(empty_postgres))
    with (
        connect(empty_postgres, "orders", role) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)


@pytest.mark.parametrize(
    ("role", "database"), [("identity", "orders"), ("booking", "auth"), ("payment", "auth")]
)
def test_a_role_connects_to_its_own_database_only(
    empty_postgres: Server, role: str, database: str
) -> None:
    apply(migrate_settings(empty_postgres))
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        connect(empty_postgres, database, role)


def test_a_file_that_fails_leaves_nothing_of_itself(empty_postgres: Server, tmp_path: Path) -> None:
    settings = migrate_settings(empty_postgres)
    apply(settings)
    root = copytree(ROOT, tmp_path / "migrate")
    broken = root / "orders" / "9999_broken.sql"
    broken.write_text("CREATE TABLE half (id integer); SELECT 1 / 0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        apply(settings, root)
    broken.write_text("CREATE TABLE half (id integer);")
    apply(settings, root)
    broken.write_text("CREATE TABLE half (id bigint);")
    with pytest.raises(MigrationError, match="has changed"):
        apply(settings, root)
    with connect(empty_postgres, "orders", empty_postgres.username) as connection:
        connection.execute("DROP TABLE half")
        connection.execute("DELETE FROM schema_migrations WHERE name = '9999_broken.sql'")
