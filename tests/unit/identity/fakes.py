"""Identity in memory."""

from datetime import UTC, datetime
from uuid import UUID

from fastapi.testclient import TestClient

from identity.issuer import KeyRing, TokenIssuer
from identity.logic import Accounts, EmailTakenError
from identity.models import User
from identity.routes import build_app
from tests.unit.common.support import AUDIENCE, ISSUER, SigningKey
from ticketra.auth import AccessPolicy
from ticketra.tokens import TokenVerifier

BCRYPT_COST = 4
TTL_S = 900


class InMemoryUsers:
    """Keeps users in a list; see `identity.logic.Users`."""

    def __init__(self) -> None:
        self.rows: list[tuple[User, str]] = []

    def insert(self, user: User, password_hash: str) -> None:
        if self.find_by_email(user.email) is not None:
            raise EmailTakenError
        self.rows.append((user, password_hash))

    def find_by_email(self, email: str) -> tuple[User, str] | None:
        return next((row for row in self.rows if row[0].email == email), None)

    def get(self, user_id: UUID) -> User | None:
        return next((user for user, _ in self.rows if user.id == user_id), None)


class Identity:
    """The whole function on top of InMemoryUsers, reached through HTTP."""

    def __init__(self, policy: AccessPolicy = "strict") -> None:
        self.users = InMemoryUsers()
        self.key = SigningKey()
        self.ring = KeyRing.from_secret(self.key.secret)
        self.issuer = TokenIssuer(
            lambda: self.ring,
            issuer=ISSUER,
            audience=AUDIENCE,
            ttl_s=TTL_S,
            clock=lambda: datetime.now(UTC),
            random_bytes=_counting(),
        )
        accounts = Accounts(
            self.users,
            self.issuer,
            policy=policy,
            bcrypt_cost=BCRYPT_COST,
            clock=lambda: datetime.now(UTC),
            random_bytes=_counting(),
        )
        self.verifier = TokenVerifier(self.issuer.jwks, issuer=ISSUER, audience=AUDIENCE)
        self.app = build_app(accounts, verifier=self.verifier, policy=policy)
        self.http = TestClient(self.app)


class _counting:  # noqa: N801 - used like a function
    """Predictable random bytes, each time others."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, length: int) -> bytes:
        self._count += 1
        return self._count.to_bytes(length)
