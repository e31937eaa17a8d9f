"""Connections to a PostgreSQL database, each with bounded waits, and whether it is there at all."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from ticketra.errors import Unavailable
from ticketra.log import logger
from ticketra.postgres_away import TAKES_WRITES

CONNECT_TIMEOUT_S = 2
STATEMENT_TIMEOUT_MS = 2_000
LOCK_TIMEOUT_MS = 1_000
TRANSACTION_LIMIT_S = 2.5  # above the statement time-out: for a server that does not answer at all
POOL_WAIT_S = 2.0
POOL_SIZE = 6
PROBE = "SELECT current_setting('transaction_read_only')::boolean"
PROBE_INTERVAL_S = 1.0
RECONNECT_MIN_S = 0.1
RECONNECT_MAX_S = 1.0

Connection = AsyncConnection[TupleRow]
Result = TypeVar("Result")


class Database:
    """Opens connections, lends pooled ones, and watches the server.

    A server that takes no writes counts as away.

    `available` is what the watch saw last. `on_notify` has the handler of each channel that is
    listened to; it gets the payload.

    Args:
        url: without credentials.
        username: empty leaves it to the server's own default, as with the password.
        password: of that user.
        name: shown by the server, with what a connection is for.
        schema: where unqualified names are looked for.

    """

    def __init__(
        self, url: str, username: str, password: str, *, name: str, schema: str = "public"
    ) -> None:
        self.name = name
        self._conninfo = psycopg.conninfo.make_conninfo(
            url,
            user=username or None,
            password=password or None,
            connect_timeout=CONNECT_TIMEOUT_S,
            options=(
                f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS}"
                " -c idle_in_transaction_session_timeout=10s -c timezone=UTC"
                f" -c search_path={schema}"
            ),
            target_session_attrs=TAKES_WRITES,
        )
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            self._conninfo,
            min_size=1,
            max_size=POOL_SIZE,
            timeout=POOL_WAIT_S,
            reconnect_timeout=RECONNECT_MAX_S,
            kwargs={"autocommit": True, "application_name": name},
            open=False,
        )
        self.available = False
        self.on_change: Callable[[bool], Awaitable[None]] | None = None
        self.on_notify: dict[str, Callable[[str], None]] = {}

    async def open(self) -> None:
        """Start the pool; it connects when the server is there."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close the pooled connections."""
        await self._pool.close()

    async def connect(self, purpose: str) -> Connection:
        """Open a connection of one's own, in autocommit mode.

        Raises:
            psycopg.OperationalError: the server is away.

        """
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await AsyncConnection.connect(
                    self._conninfo, autocommit=True, application_name=f"{self.name}-{purpose}"
                )
        except TimeoutError:
            raise psycopg.OperationalError("connecting took too long") from None

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Connection]:
        """Lend a pooled connection in autocommit mode, for at most TRANSACTION_LIMIT_S.

        Raises:
            Unavailable: the server is away, or all connections stay busy.
            ticketra.postgres_away.AWAY: the connection broke, a statement took too long, or the
                server takes no writes.

        """
        if not self.available:
            raise unavailable()
        try:
            async with self._pool.connection() as connection:
                try:
                    with limited(connection):
                        yield connection
                except psycopg.errors.ReadOnlySqlTransaction:
                    await connection.close()  # the next one may be to the server that takes them
                    raise
        except PoolTimeout:
            raise unavailable() from None

    async def watch(self) -> None:
        """Keep one connection open that listens and probes; never returns."""
        pause_s = RECONNECT_MIN_S
        while True:
            try:
                async with await self.connect("watch") as connection:
                    for channel in self.on_notify:
                        await connection.execute(f"LISTEN {channel}")
                    pause_s = RECONNECT_MIN_S
                    await self._pool.check()  # throws out what broke while the server was away
                    await self._set_available(available=True)
                    await self._listen(connection)
            except psycopg.Error as error:
                await self._set_available(available=False)
                logger.warning("PostgreSQL is away", extra={"error": str(error)})
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RECONNECT_MAX_S)

    async def _listen(self, connection: Connection) -> None:
        while True:
            async for notify in connection.notifies(timeout=PROBE_INTERVAL_S):
                self.on_notify[notify.channel](notify.payload)
            with limited(connection):
                row = await (await connection.execute(PROBE)).fetchone()
            if row is not None and row[0]:
                raise psycopg.errors.ReadOnlySqlTransaction("the server takes no writes")

    async def _set_available(self, *, available: bool) -> None:
        if available == self.available:
            return
        self.available = available
        logger.info("PostgreSQL changed", extra={"available": available})
        if self.on_change is not None:
            await self.on_change(available)


class limited:  # noqa: N801 - reads as a statement, like contextlib.suppress
    """Break `connection` if what is done with it takes longer than `limit_s`.

    The statement time-out is the server's; this bound holds when the server does not answer. The
    socket is shut down, so that whoever waits on it hears of it at once.
    """

    def __init__(self, connection: Connection, limit_s: float = TRANSACTION_LIMIT_S) -> None:
        self._connection = connection
        self._limit_s = limit_s

    def __enter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._break)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _break(self) -> None:
        if self._connection.closed:
            return
        with (
            suppress(OSError),
            socket.fromfd(self._connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as copy,
        ):
            copy.shutdown(socket.SHUT_RDWR)


async def roll_back(connection: Connection) -> None:
    """End an explicit transaction, if the connection still lives."""
    if not connection.closed:
        await connection.execute("ROLLBACK")


def unavailable() -> Unavailable:
    """Return the refusal of a request that needs PostgreSQL while it is away."""
    return Unavailable(
        "unavailable", "The database cannot be reached for the moment: try again.", retry_after_s=1
    )
