"""Identity in memory."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from fastapi.testclient import TestClient

from identity.issuer import KeyRing, TokenIssuer
from identity.logic import Accounts, EmailTakenError
from identity.models import User
from identity.routes import build_app
from identity.sessions import Exchange, Judge, KeptToken, NewToken, Sessions, Verdict
from identity.slow_down import LocalAttempts, SlowDown
from tests.unit.common.support import AUDIENCE, ISSUER, SigningKey
from ticketra.auth import AccessPolicy
from ticketra.errors import Unavailable
from ticketra.tokens import TokenVerifier

BCRYPT_COST = 4
TTL_S = 900
REFRESH_TTL_S = 3600
ADDRESS_ALLOWANCE = 20


@dataclass
class Row:
    """A row of the table of refresh tokens."""

    family_id: UUID
    user_id: UUID
    expires_at: datetime
    is_spent: bool = False
    is_revoked: bool = False


class InMemory:
    """Keeps users and refresh tokens; see `logic.Users` and `sessions.RefreshTokens`."""

    def __init__(self) -> None:
        self.rows: list[tuple[User, str]] = []
        self.tokens: dict[bytes, Row] = {}

    def insert(self, user: User, password_hash: str) -> None:
        if self.find_by_email(user.email) is not None:
            raise EmailTakenError
        self.rows.append((user, password_hash))

    def find_by_email(self, email: str) -> tuple[User, str] | None:
        return next((row for row in self.rows if row[0].email == email), None)

    def find(self, user_id: UUID) -> tuple[User, str] | None:
        return next((row for row in self.rows if row[0].id == user_id), None)

    def change_password(
        self, user_id: UUID, *, old_hash: str, new_hash: str, now: datetime
    ) -> bool:
        found = self.find(user_id)
        if found is None or found[1] != old_hash:
            return False
        self.rows[self.rows.index(found)] = (found[0], new_hash)
        for row in self.tokens.values():
            row.is_revoked |= row.user_id == user_id
        return True

    def begin(
        self, user_id: UUID, password_hash: str, family_id: UUID, token: NewToken, now: datetime
    ) -> bool:
        found = self.find(user_id)
        if found is None or found[1] != password_hash:
            return False
        self.tokens[token.token_hash] = Row(family_id, user_id, token.expires_at)
        return True

    def exchange(
        self, token_hash: bytes, successor: NewToken, judge: Judge, now: datetime
    ) -> Exchange | None:
        row = self.tokens.get(token_hash)
        owner = None if row is None else self.find(row.user_id)
        if row is None or owner is None:
            return None
        verdict = judge(KeptToken(row.family_id, row.expires_at, row.is_spent, row.is_revoked))
        if verdict is Verdict.ROTATE:
            row.is_spent = True
            successor_row = Row(row.family_id, row.user_id, successor.expires_at)
            self.tokens[successor.token_hash] = successor_row
        if verdict is Verdict.REVOKE_FAMILY:
            self.revoke_family(token_hash, now)
        return Exchange(verdict, owner[0], row.family_id)

    def revoke_family(self, token_hash: bytes, now: datetime) -> None:
        named = self.tokens.get(token_hash)
        for row in self.tokens.values():
            row.is_revoked |= named is not None and row.family_id == named.family_id


class Identity:
    """The whole function in memory, reached through HTTP; `passed` is time that went by."""

    def __init__(self, policy: AccessPolicy = "strict") -> None:
        self.passed = timedelta()
        self.users = InMemory()
        self.key = SigningKey()
        self.ring: KeyRing | None = KeyRing.from_secret(self.key.secret)
        self.issuer = TokenIssuer(
            self._keys,
            issuer=ISSUER,
            audience=AUDIENCE,
            ttl_s=TTL_S,
            clock=lambda: datetime.now(UTC),
            random_bytes=_counting(),
        )
        sessions = Sessions(
            self.users,
            self.issuer,
            ttl_s=REFRESH_TTL_S,
            clock=lambda: datetime.now(UTC) + self.passed,
            random_bytes=_counting(),
        )
        self.attempts = LocalAttempts(lambda: int(self.passed.total_seconds() * 1000))
        accounts = Accounts(
            self.users,
            sessions,
            SlowDown(self.attempts, address_allowance=ADDRESS_ALLOWANCE),
            policy=policy,
            bcrypt_cost=BCRYPT_COST,
            clock=lambda: datetime.now(UTC),
            random_bytes=_counting(),
        )
        self.verifier = TokenVerifier(self.issuer.jwks, issuer=ISSUER, audience=AUDIENCE)
        self.app = build_app(accounts, sessions, self.issuer, verifier=self.verifier, policy=policy)
        self.http = TestClient(self.app)

    def _keys(self) -> KeyRing:
        if self.ring is None:
            raise Unavailable("temporarily_unavailable", "Away.")
        return self.ring


class _counting:  # noqa: N801 - used like a function
    """Predictable random bytes, each time others."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, length: int) -> bytes:
        self._count += 1
        return self._count.to_bytes(length)
