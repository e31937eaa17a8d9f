"""The `auth` database, over one connection for each execution environment."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg
from psycopg.rows import dict_row

from ticketra.errors import Unavailable
from ticketra.postgres_away import AWAY, TAKES_WRITES
from ticketra.secrets import Credentials

CONNECT_TIMEOUT_S = 3
STATEMENT_TIMEOUT_MS = 2000
OPERATION_LIMIT_S = 3.0  # also bounds a server that takes the query and then says nothing
RETRY_AFTER_S = 2

Connection = psycopg.Connection[dict[str, Any]]
Result = TypeVar("Result")


def connect(url: str, credentials: Credentials) -> Connection:
    """Open a connection to the `auth` database; `url` holds no credentials."""
    return psycopg.connect(
        url,
        user=credentials.username or None,
        password=credentials.password or None,
        connect_timeout=CONNECT_TIMEOUT_S,
        target_session_attrs=TAKES_WRITES,
        application_name="identity",
        options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC",
        autocommit=True,
        row_factory=dict_row,
    )


class Database:
    """Keeps a connection open between operations, and replaces it when it is dead."""

    def __init__(self, open_connection: Callable[[], Connection]) -> None:
        self._open_connection = open_connection
        self._connection: Connection | None = None

    def run(self, operation: Callable[[Connection], Result]) -> Result:
        """Run `operation`; if a kept connection turns out to be dead, once more on a new one.

        The first run may have committed although its answer was lost, so `operation` has to bear
        that it finds its own work done.

        Raises:
            Unavailable: the database is away or too slow.

        """
        give_up_at = time.monotonic() + OPERATION_LIMIT_S
        reused = self._connection is not None
        try:
            return self._attempt(operation, give_up_at)
        except AWAY as error:
            was_dead = reused and self._connection is None
            if not was_dead or time.monotonic() >= give_up_at:
                raise _away() from error
        try:
            return self._attempt(operation, give_up_at)
        except AWAY as error:
            raise _away() from error

    def close(self) -> None:
        """Close the connection; the next operation opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _attempt(self, operation: Callable[[Connection], Result], give_up_at: float) -> Result:
        """Run `operation` once; afterwards no broken connection is kept."""
        if self._connection is None:
            self._connection = self._open_connection()
        try:
            with _hung_up_at(give_up_at, self._connection):
                return operation(self._connection)
        except psycopg.errors.ReadOnlySqlTransaction:
            self._connection.close()  # the next one may be to the server that takes writes
            raise
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
