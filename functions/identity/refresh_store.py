"""Refresh tokens in PostgreSQL.

Whatever changes a user's sessions locks the user's row first. So a token is spent once, a family
that is being revoked gets no new token, and a login with a password that is just being changed
either comes before and is ended, or comes after and is refused.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from identity.database import Connection, Database
from identity.models import User
from identity.sessions import Exchange, Judge, KeptToken, NewToken, Verdict

# Each login and each refresh adds one row and removes up to this many, so that they get fewer.
PRUNE_LIMIT = 10

_LOCK_USER = """
SELECT id FROM users WHERE id = %(user_id)s AND password_hash = %(password_hash)s
FOR NO KEY UPDATE
"""

_LOCK_OWNER = """
SELECT id, email, role, created_at FROM users
WHERE id = (SELECT user_id FROM refresh_tokens WHERE token_hash = %(token_hash)s)
FOR NO KEY UPDATE
"""

# A try that committed although its answer was lost left its own row.
_INSERT = """
INSERT INTO refresh_tokens (token_hash, family_id, user_id, expires_at)
VALUES (%(token_hash)s, %(family_id)s, %(user_id)s, %(expires_at)s)
ON CONFLICT (token_hash) DO NOTHING
"""

_FIND = """
SELECT family_id, expires_at, spent_at IS NOT NULL AS is_spent, revoked_at IS NOT NULL AS is_revoked
FROM refresh_tokens WHERE token_hash = %(token_hash)s
"""

_SPEND = """
UPDATE refresh_tokens SET spent_at = %(now)s WHERE token_hash = %(token_hash)s
"""

_REVOKE_FAMILY = """
UPDATE refresh_tokens SET revoked_at = %(now)s
WHERE family_id = (SELECT family_id FROM refresh_tokens WHERE token_hash = %(token_hash)s)
  AND spent_at IS NULL AND revoked_at IS NULL
"""

_PRUNE = """
DELETE FROM refresh_tokens WHERE token_hash IN (
    SELECT token_hash FROM refresh_tokens WHERE expires_at < %(now)s
    ORDER BY expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
"""


class RefreshTokenStore:
    """Keeps refresh tokens; see `identity.sessions.RefreshTokens`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(
        self, user_id: UUID, password_hash: str, family_id: UUID, token: NewToken, now: datetime
    ) -> bool:
        """Start a family, if the user still has this password hash; say whether it was so."""
        user = {"user_id": user_id, "password_hash": password_hash}

        def begin(connection: Connection) -> bool:
            with connection.transaction():
                if connection.execute(_LOCK_USER, user).fetchone() is None:
                    return False
                connection.execute(_INSERT, _row(token, family_id, user_id))
                _prune(connection, now)
                return True

        return self._database.run(begin)

    def exchange(
        self, token_hash: bytes, successor: NewToken, judge: Judge, now: datetime
    ) -> Exchange | None:
        """Judge a token and rotate it or revoke its family, in one transaction."""

        def exchange(connection: Connection) -> Exchange | None:
            with connection.transaction():
                values = {"token_hash": token_hash, "now": now}
                owner = connection.execute(_LOCK_OWNER, values).fetchone()
                # Read only now: whoever held the lock before may have spent it.
                found = connection.execute(_FIND, values).fetchone()
                if owner is None or found is None:
                    return None
                user, kept = User.model_validate(owner), KeptToken(**found)
                if _is_kept(connection, successor):
                    return Exchange(Verdict.ROTATE, user, kept.family_id)
                verdict = judge(kept)
                if verdict is Verdict.ROTATE:
                    connection.execute(_SPEND, values)
                    connection.execute(_INSERT, _row(successor, kept.family_id, user.id))
                    _prune(connection, now)
                elif verdict is Verdict.REVOKE_FAMILY:
                    connection.execute(_REVOKE_FAMILY, values)
                return Exchange(verdict, user, kept.family_id)

        return self._database.run(exchange)

    def revoke_family(self, token_hash: bytes, now: datetime) -> None:
        """Revoke the family of a token, if there is such a token."""
        values = {"token_hash": token_hash, "now": now}

        def revoke(connection: Connection) -> None:
            with connection.transaction():
                connection.execute(_LOCK_OWNER, values)
                connection.execute(_REVOKE_FAMILY, values)

        self._database.run(revoke)


def _row(token: NewToken, family_id: UUID, user_id: UUID) -> dict[str, Any]:
    return {
        "token_hash": token.token_hash,
        "expires_at": token.expires_at,
        "family_id": family_id,
        "user_id": user_id,
    }


def _is_kept(connection: Connection, token: NewToken) -> bool:
    """Tell whether an earlier try of this very exchange had committed."""
    return connection.execute(_FIND, {"token_hash": token.token_hash}).fetchone() is not None


def _prune(connection: Connection, now: datetime) -> None:
    connection.execute(_PRUNE, {"now": now, "limit": PRUNE_LIMIT})
