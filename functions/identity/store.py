"""Users in PostgreSQL, over one connection for each execution environment."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg import errors
from psycopg.rows import dict_row

from identity.logic import EmailTakenError
from identity.models import User
from ticketra.errors import Unavailable
from ticketra.secrets import Credentials

CONNECT_TIMEOUT_S = 3
STATEMENT_TIMEOUT_MS = 2000
OPERATION_LIMIT_S = 3.0  # also bounds a server that takes the query and then says nothing
RETRY_AFTER_S = 2

Connection = psycopg.Connection[dict[str, Any]]
Result = TypeVar("Result")

# The id was minted before the first try, so a repeated insert meets its own row and does nothing.
_INSERT = """
INSERT INTO users (id, email, password_hash, role, created_at)
VALUES (%(id)s, %(email)s, %(password_hash)s, %(role)s, %(created_at)s)
ON CONFLICT (id) DO NOTHING
"""

_FIND_BY_EMAIL = """
SELECT id, email, role, created_at, password_hash FROM users WHERE email = %(email)s
"""

_GET = """
SELECT id, email, role, created_at FROM users WHERE id = %(id)s
"""


def connect(url: str, credentials: Credentials) -> Connection:
    """Open a connection to the `auth` database; `url` holds no credentials."""
    return psycopg.connect(
        url,
        user=credentials.username or None,
        password=credentials.password or None,
        connect_timeout=CONNECT_TIMEOUT_S,
        application_name="identity",
        options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC",
        autocommit=True,
        row_factory=dict_row,
    )


class UserStore:
    """Keeps users; see `identity.logic.Users`.

    Every method raises Unavailable when the database is away or too slow.
    """

    def __init__(self, open_connection: Callable[[], Connection]) -> None:
        self._open_connection = open_connection
        self._connection: Connection | None = None

    def insert(self, user: User, password_hash: str) -> None:
        """Keep a new user. Raises EmailTakenError."""
        row = user.model_dump() | {"password_hash": password_hash}
        try:
            self._run(lambda connection: connection.execute(_INSERT, row))
        except errors.UniqueViolation:
            raise EmailTakenError from None

    def find_by_email(self, email: str) -> tuple[User, str] | None:
        """Return the user with this address and their password's hash."""
        row = self._run(lambda c: c.execute(_FIND_BY_EMAIL, {"email": email}).fetchone())
        return None if row is None else (User.model_validate(row), row["password_hash"])

    def get(self, user_id: UUID) -> User | None:
        """Return the user with this id."""
        row = self._run(lambda c: c.execute(_GET, {"id": user_id}).fetchone())
        return None if row is None else User.model_validate(row)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, operation: Callable[[Connection], Result]) -> Result:
        """Run `operation`; if a kept connection turns out to be dead, once more on a new one."""
        give_up_at = time.monotonic() + OPERATION_LIMIT_S
        reused = self._connection is not None
        try:
            return self._attempt(operation, give_up_at)
        except psycopg.OperationalError as error:
            was_dead = reused and self._connection is None
            if not was_dead or time.monotonic() >= give_up_at:
                raise _away() from error
        try:
            return self._attempt(operation, give_up_at)
        except psycopg.OperationalError as error:
            raise _away() from error

    def _attempt(self, operation: Callable[[Connection], Result], give_up_at: float) -> Result:
        """Run `operation` once; afterwards no broken connection is kept."""
        if self._connection is None:
            self._connection = self._open_connection()
        try:
            with _hung_up_at(give_up_at, self._connection):
                return operation(self._connection)
        finally:
            if self._connection.closed:
                self._connection = None


@contextmanager
def _hung_up_at(give_up_at: float, connection: Connection) -> Iterator[None]:
    """Break `connection` at that time on the monotonic clock, so that no wait is without end.

    The statement time-out is the server's: it does not help when the server itself has stopped.
    """
    line = socket.socket(fileno=os.dup(connection.fileno()))

    def hang_up() -> None:
        with suppress(OSError):  # the line is closed already
            line.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(give_up_at - time.monotonic(), hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        line.close()


def _away() -> Unavailable:
    return Unavailable(
        "temporarily_unavailable",
        "Accounts cannot be reached at the moment: try again shortly.",
        retry_after_s=RETRY_AFTER_S,
    )
