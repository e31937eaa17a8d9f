"""Users in a real PostgreSQL: uniqueness, privileges, and what happens when it goes away."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors

from identity import passwords
from identity.database import OPERATION_LIMIT_S, Connection, Database
from identity.logic import EmailTakenError
from identity.models import User
from identity.store import UserStore
from tests.integration.identity.conftest import IDENTITY, admin
from tests.integration.servers import Server
from ticketra.errors import Unavailable

HEARD_LIMIT_S = 10.0  # for sessions to hear of a setting
HASH = passwords.hashed("correct horse", 4)


class Counting:
    """Opens connections and counts the tries."""

    def __init__(self, open_connection: Callable[[], Connection]) -> None:
        self._open_connection = open_connection
        self.opened = 0

    def __call__(self) -> Connection:
        self.opened += 1
        return self._open_connection()


def _user(email: str = "anna@example.com") -> User:
    return User(id=uuid4(), email=email, role="user", created_at=datetime.now(UTC))


def test_finds_what_it_keeps(users: UserStore) -> None:
    user = _user()

    users.insert(user, HASH)

    assert users.find_by_email(user.email) == (user, HASH)
    assert users.find(user.id) == (user, HASH)
    assert users.find(uuid4()) is None
    assert users.find_by_email("bea@example.com") is None


def test_one_of_many_at_once_gets_the_address(open_connection: Callable[[], Connection]) -> None:
    together = Barrier(8)

    def register(_: int) -> bool:
        database = Database(open_connection)
        store = UserStore(database)
        store.find_by_email("anna@example.com")  # connected before the race starts
        together.wait(10)
        try:
            store.insert(_user(), HASH)
        except EmailTakenError:
            return False
        finally:
            database.close()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(register, range(8))) == [False] * 7 + [True]


def test_without_the_unique_index_the_race_would_be_lost(
    open_connection: Callable[[], Connection], database: Server
) -> None:
    """The negative control of the race above."""
    with admin(database) as owner:
        owner.execute("ALTER TABLE users DROP CONSTRAINT users_email_key")
        try:
            for _ in range(2):
                store = Database(open_connection)
                UserStore(store).insert(_user(), HASH)
                store.close()
            assert owner.execute("SELECT count(*) FROM users").fetchone() == (2,)
        finally:
            owner.execute("TRUNCATE users CASCADE")
            owner.execute("ALTER TABLE users ADD CONSTRAINT users_email_key UNIQUE (email)")


def test_inserting_the_same_user_again_changes_nothing(users: UserStore) -> None:
    user = _user()
    users.insert(user, HASH)

    users.insert(user, HASH)

    assert users.find_by_email(user.email) == (user, HASH)


def test_a_connection_that_was_cut_is_replaced_unseen(users: UserStore, database: Server) -> None:
    user = _user()
    users.insert(user, HASH)
    with admin(database) as owner:
        owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'identity'"
        )

    assert users.find(user.id) == (user, HASH)


def test_a_stopped_server_is_an_outage_and_then_none(users: UserStore, database: Server) -> None:
    user = _user()
    users.insert(user, HASH)
    database.stop()

    with pytest.raises(Unavailable) as caught:
        users.find(user.id)
    assert caught.value.retry_after_s

    database.start()
    assert users.find(user.id) == (user, HASH)


def test_a_server_that_says_nothing_is_given_up(users: UserStore, database: Server) -> None:
    user = _user()
    users.insert(user, HASH)
    with admin(database) as owner:
        found = owner.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'identity'"
        ).fetchone()
    assert found is not None
    assert isinstance(found[0], int)
    os.kill(found[0], signal.SIGSTOP)
    started = time.monotonic()
    try:
        with pytest.raises(Unavailable):
            users.find(user.id)
    finally:
        os.kill(found[0], signal.SIGCONT)

    assert time.monotonic() - started < OPERATION_LIMIT_S + 10
    assert users.find(user.id) == (user, HASH)


def test_a_server_that_takes_no_writes_is_an_outage_until_it_does(
    users: UserStore, database: Server
) -> None:
    def is_kept() -> bool:
        try:
            users.insert(_user(f"{uuid4()}@example.com"), HASH)
        except Unavailable:
            return False
        return True

    assert is_kept()
    for takes_writes in (False, True):
        with admin(database) as owner:
            owner.execute("SET default_transaction_read_only = off")
            read_only = "off" if takes_writes else "on"
            owner.execute(f"ALTER SYSTEM SET default_transaction_read_only = {read_only}".encode())
            owner.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + HEARD_LIMIT_S
        while is_kept() != takes_writes:
            assert time.monotonic() < deadline


def test_a_transaction_that_stood_still_is_done_once_more(kept: Database) -> None:
    stood_still: list[bool] = []

    def stand_still(connection: Connection) -> None:
        with connection.transaction():
            connection.execute("SET idle_in_transaction_session_timeout = '10ms'")
            if not stood_still:
                stood_still.append(True)
                time.sleep(0.5)
            connection.execute("SELECT")

    kept.run(lambda connection: connection.execute("SELECT"))  # connected before
    kept.run(stand_still)
    assert stood_still


def test_a_slow_statement_is_ended_by_the_server_and_the_connection_kept(
    open_connection: Callable[[], Connection], database: Server
) -> None:
    counting = Counting(open_connection)
    kept = Database(counting)
    users = UserStore(kept)
    with admin(database) as owner, owner.transaction():
        owner.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Unavailable):
            users.find(uuid4())

    assert users.find(uuid4()) is None
    assert counting.opened == 1
    kept.close()


def test_a_server_that_refuses_a_new_connection_is_not_asked_twice(
    open_connection: Callable[[], Connection], database: Server
) -> None:
    counting = Counting(open_connection)
    users = UserStore(Database(counting))
    database.stop()

    with pytest.raises(Unavailable):
        users.find(uuid4())

    assert counting.opened == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET role = 'admin'",
        "UPDATE users SET email = 'mallory@example.com'",
        "DELETE FROM users",
        "UPDATE refresh_tokens SET user_id = gen_random_uuid()",
        "UPDATE refresh_tokens SET expires_at = now()",
        "TRUNCATE refresh_tokens",
        "TRUNCATE users",
        "DROP TABLE users",
        "CREATE TABLE mine (id int)",
        "SELECT * FROM schema_migrations",
    ],
)
def test_the_role_may_do_nothing_else(
    open_connection: Callable[[], Connection], statement: str
) -> None:
    with open_connection() as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def test_the_role_may_not_look_at_orders(database: Server) -> None:
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(
            f"{database.url}/orders", user=IDENTITY.username, password=IDENTITY.password
        )


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("email", "Anna@example.com"),
        ("email", " anna@example.com"),
        ("email", "a" * 255),
        ("password_hash", "correct horse"),
        ("role", "root"),
    ],
)
def test_the_table_refuses_what_the_function_never_sends(
    database: Server, column: str, value: str
) -> None:
    row = _user().model_dump() | {"password_hash": HASH, column: value}
    with admin(database) as owner, pytest.raises(errors.CheckViolation):
        owner.execute(
            "INSERT INTO users (id, email, password_hash, role, created_at)"
            " VALUES (%(id)s, %(email)s, %(password_hash)s, %(role)s, %(created_at)s)",
            row,
        )
