"""What counts as PostgreSQL being away: the answer is "try again", and no request is to blame."""

import psycopg

# The last two are no OperationalError in psycopg, though nobody's fault: a failover left us with a
# server that takes no writes, or this process stood still and its transaction was ended.
AWAY = (
    psycopg.OperationalError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.IdleInTransactionSessionTimeout,
)

# As `target_session_attrs`: a server that takes no writes is not connected to.
TAKES_WRITES = "read-write"
