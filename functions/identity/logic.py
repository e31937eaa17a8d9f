"""Accounts: registering, logging in, and who one is. Decides; the stores only keep."""

from datetime import datetime
from typing import Protocol
from uuid import UUID

from identity import passwords
from identity.models import Session, User
from identity.sessions import Sessions
from identity.slow_down import SlowDown
from ticketra.auth import AccessPolicy
from ticketra.errors import Conflict, Unauthenticated
from ticketra.ids import Clock, RandomBytes, uuid7_at
from ticketra.tokens import Principal


class EmailTakenError(Exception):
    """Another user has this e-mail address."""


class Users(Protocol):
    """Where users are kept."""

    def insert(self, user: User, password_hash: str) -> None:
        """Keep a new user; inserting the same one (by id) again changes nothing.

        Raises:
            EmailTakenError: another user has this e-mail address.
            Unavailable: the database is away.

        """

    def find_by_email(self, email: str) -> tuple[User, str] | None:
        """Return the user with this address and their password's hash."""

    def find(self, user_id: UUID) -> tuple[User, str] | None:
        """Return the user with this id and their password's hash."""

    def change_password(
        self, user_id: UUID, *, old_hash: str, new_hash: str, now: datetime
    ) -> bool:
        """Replace `old_hash` and end every session; False if it is not the present one any more."""


class Accounts:
    """What identity does, under one access policy."""

    def __init__(
        self,
        users: Users,
        sessions: Sessions,
        slow_down: SlowDown,
        *,
        policy: AccessPolicy,
        bcrypt_cost: int,
        clock: Clock,
        random_bytes: RandomBytes,
    ) -> None:
        self._users = users
        self._sessions = sessions
        self._slow_down = slow_down
        self._policy = policy
        self._bcrypt_cost = bcrypt_cost
        self._clock = clock
        self._random_bytes = random_bytes

    def register(self, email: str, password: str) -> User:
        """Make an account; `email` is normalised already.

        Raises:
            Invalid: the password is not good enough for the access policy.
            Conflict: the address has an account.

        """
        passwords.check(password, self._policy)
        now = self._clock()
        user = User(id=uuid7_at(now, self._random_bytes), email=email, role="user", created_at=now)
        try:
            self._users.insert(user, passwords.hashed(password, self._bcrypt_cost))
        except EmailTakenError:
            raise Conflict(
                "email_taken", "This e-mail address has an account: log in instead."
            ) from None
        return user

    def log_in(self, email: str, password: str, address: str) -> Session:
        """Start a session of the user with this e-mail address and password.

        `address` is the client's, as whoever took the connection saw it.

        Raises:
            Unauthenticated: there is none; which of the two is wrong shows neither in the answer
                nor in the time that it takes.
            TooManyRequests: there were too many failures; also that says nothing of the account.

        """
        with self._slow_down.attempt(email, address):
            found = self._users.find_by_email(email)
            user = self._proven(found, password)
            session = None if user is None else self._sessions.begin(*user)
            if session is None:
                raise Unauthenticated(
                    "invalid_credentials", "The e-mail address or the password is wrong."
                )
        return session

    def change_password(
        self, principal: Principal, current_password: str, new_password: str, address: str
    ) -> None:
        """Replace the caller's password and end all of their sessions.

        Raises:
            Invalid: the new password is not good enough for the access policy.
            Unauthenticated: the current password is wrong, or the user is gone.
            TooManyRequests: there were too many failures.

        """
        passwords.check(new_password, self._policy, field="new_password")
        found = self._users.find(UUID(principal.user_id))
        if found is None:
            raise _gone()
        user, old_hash = found
        with self._slow_down.attempt(user.email, address):
            changed = self._proven(found, current_password) and self._users.change_password(
                user.id,
                old_hash=old_hash,
                new_hash=passwords.hashed(new_password, self._bcrypt_cost),
                now=self._clock(),
            )
            if not changed:
                raise Unauthenticated("invalid_credentials", "The current password is wrong.")

    def me(self, principal: Principal) -> User:
        """Return the user that a token speaks for.

        Raises:
            Unauthenticated: the user is gone.

        """
        found = self._users.find(UUID(principal.user_id))
        if found is None:
            raise _gone()
        return found[0]

    def _proven(self, found: tuple[User, str] | None, password: str) -> tuple[User, str] | None:
        """Return `found` if this is their password; every answer takes the same work."""
        password_hash = None if found is None else found[1]
        is_right = passwords.matches(password, password_hash, self._bcrypt_cost)
        return found if is_right else None


def _gone() -> Unauthenticated:
    return Unauthenticated("invalid_token", "The access token is not valid: log in again.")
