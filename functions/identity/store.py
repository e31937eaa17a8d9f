"""Users in PostgreSQL."""

from datetime import datetime
from uuid import UUID

from psycopg import errors

from identity.database import Connection, Database
from identity.logic import EmailTakenError
from identity.models import User

# The id was minted before the first try, so a repeated insert meets its own row and does nothing.
_INSERT = """
INSERT INTO users (id, email, password_hash, role, created_at)
VALUES (%(id)s, %(email)s, %(password_hash)s, %(role)s, %(created_at)s)
ON CONFLICT (id) DO NOTHING
"""

_FIND_BY_EMAIL = """
SELECT id, email, role, created_at, password_hash FROM users WHERE email = %(email)s
"""

_FIND = """
SELECT id, email, role, created_at, password_hash FROM users WHERE id = %(id)s
"""

# The old hash says that nobody changed the password since it was checked; the new one, which
# nobody else can have made, that an earlier try had committed.
_REPLACE_HASH = """
UPDATE users SET password_hash = %(new_hash)s
WHERE id = %(id)s AND password_hash IN (%(old_hash)s, %(new_hash)s)
"""

_END_SESSIONS = """
UPDATE refresh_tokens SET revoked_at = %(now)s
WHERE user_id = %(id)s AND spent_at IS NULL AND revoked_at IS NULL
"""


class UserStore:
    """Keeps users; see `identity.logic.Users`.

    Every method raises Unavailable when the database is away or too slow.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, user: User, password_hash: str) -> None:
        """Keep a new user. Raises EmailTakenError."""
        row = user.model_dump() | {"password_hash": password_hash}
        try:
            self._database.run(lambda connection: connection.execute(_INSERT, row))
        except errors.UniqueViolation:
            raise EmailTakenError from None

    def find_by_email(self, email: str) -> tuple[User, str] | None:
        """Return the user with this address and their password's hash."""
        row = self._database.run(lambda c: c.execute(_FIND_BY_EMAIL, {"email": email}).fetchone())
        return None if row is None else (User.model_validate(row), row["password_hash"])

    def find(self, user_id: UUID) -> tuple[User, str] | None:
        """Return the user with this id and their password's hash."""
        row = self._database.run(lambda c: c.execute(_FIND, {"id": user_id}).fetchone())
        return None if row is None else (User.model_validate(row), row["password_hash"])

    def change_password(
        self, user_id: UUID, *, old_hash: str, new_hash: str, now: datetime
    ) -> bool:
        """Replace `old_hash` and end every session; False if it is not the present one any more."""
        values = {"id": user_id, "old_hash": old_hash, "new_hash": new_hash, "now": now}

        def change(connection: Connection) -> bool:
            with connection.transaction():
                # The user's row stays locked, so that no session begins between the two.
                if connection.execute(_REPLACE_HASH, values).rowcount == 0:
                    return False
                connection.execute(_END_SESSIONS, values)
                return True

        return self._database.run(change)
