"""Accounts: registering, logging in, and who one is. Decides; the store only keeps."""

from typing import Protocol
from uuid import UUID

from identity import passwords
from identity.issuer import TokenIssuer
from identity.models import AccessToken, User
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

    def get(self, user_id: UUID) -> User | None:
        """Return the user with this id."""


class Accounts:
    """What identity does, under one access policy."""

    def __init__(
        self,
        users: Users,
        issuer: TokenIssuer,
        *,
        policy: AccessPolicy,
        bcrypt_cost: int,
        clock: Clock,
        random_bytes: RandomBytes,
    ) -> None:
        self._users = users
        self._issuer = issuer
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

    def log_in(self, email: str, password: str) -> AccessToken:
        """Return a token for the user with this address and password.

        Raises:
            Unauthenticated: there is none; which of the two is wrong shows neither in the answer
                nor in the time that it takes.

        """
        found = self._users.find_by_email(email)
        password_hash = None if found is None else found[1]
        if not passwords.matches(password, password_hash, self._bcrypt_cost) or found is None:
            raise Unauthenticated(
                "invalid_credentials", "The e-mail address or the password is wrong."
            )
        return self._issuer.issue(found[0])

    def me(self, principal: Principal) -> User:
        """Return the user that a token speaks for.

        Raises:
            Unauthenticated: the user is gone.

        """
        user = self._users.get(UUID(principal.user_id))
        if user is None:
            raise Unauthenticated("invalid_token", "The access token is not valid: log in again.")
        return user

    def jwks(self) -> str:
        """Return the public keys that verify our tokens, as JSON (RFC 7517)."""
        return self._issuer.jwks()
