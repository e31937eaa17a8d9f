"""Sessions: a login starts one, each refresh hands it on to a new refresh token, logout ends it.

A refresh token is 256 random bits. It is good for one refresh: it is spent then, and its successor
joins its family. A spent one that comes again was copied by somebody, and nobody can say which of
the two is the thief: the family is revoked at once, and whoever knows the password logs in again.
"""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol
from uuid import UUID

from identity.issuer import TokenIssuer
from identity.models import Session, User
from ticketra.errors import Unauthenticated
from ticketra.ids import Clock, RandomBytes, uuid7_at
from ticketra.log import logger

REFRESH_TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class NewToken:
    """A refresh token as it is kept."""

    token_hash: bytes
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class KeptToken:
    """What is known of a refresh token that was presented."""

    family_id: UUID
    expires_at: datetime
    is_spent: bool
    is_revoked: bool


class Verdict(Enum):
    """What becomes of a presented refresh token."""

    ROTATE = "rotate"
    REVOKE_FAMILY = "revoke the family"
    REFUSE = "refuse"


Judge = Callable[[KeptToken], Verdict]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A judged refresh token and the user that it belongs to, as they are now."""

    verdict: Verdict
    user: User
    family_id: UUID


class RefreshTokens(Protocol):
    """Where refresh tokens are kept. Every method raises Unavailable when that is away."""

    def begin(
        self, user_id: UUID, password_hash: str, family_id: UUID, token: NewToken, now: datetime
    ) -> bool:
        """Start a family, if the user still has this password hash; say whether it was so."""

    def exchange(
        self, token_hash: bytes, successor: NewToken, judge: Judge, now: datetime
    ) -> Exchange | None:
        """Do with a token what `judge` says, while nobody else changes its user's sessions.

        None if there is no such token.
        """

    def revoke_family(self, token_hash: bytes, now: datetime) -> None:
        """Revoke the family of a token, if there is such a token."""


def verdict_on(token: KeptToken, now: datetime) -> Verdict:
    """Judge a token that was presented at `now`."""
    if token.is_revoked or token.expires_at <= now:
        return Verdict.REFUSE
    return Verdict.REVOKE_FAMILY if token.is_spent else Verdict.ROTATE


class Sessions:
    """Starts, continues and ends sessions; a refresh token is good for `ttl_s`."""

    def __init__(
        self,
        tokens: RefreshTokens,
        issuer: TokenIssuer,
        *,
        ttl_s: int,
        clock: Clock,
        random_bytes: RandomBytes,
    ) -> None:
        self._tokens = tokens
        self._issuer = issuer
        self._ttl = timedelta(seconds=ttl_s)
        self._clock = clock
        self._random_bytes = random_bytes

    def begin(self, user: User, password_hash: str) -> Session | None:
        """Start a session of `user`; None if their password was changed since it was checked."""
        self._issuer.require_keys()
        now = self._clock()
        secret, kept = self._new_token(now)
        family_id = uuid7_at(now, self._random_bytes)
        if not self._tokens.begin(user.id, password_hash, family_id, kept, now):
            return None
        return self._session(user, secret)

    def refresh(self, refresh_token: str) -> Session:
        """Exchange a refresh token for an access token and the next refresh token.

        Raises:
            Unauthenticated: it is not one of ours, or not good any more.

        """
        self._issuer.require_keys()  # an outage that shows only later would cost the session
        now = self._clock()
        secret, successor = self._new_token(now)
        exchange = self._tokens.exchange(
            _hash_of(refresh_token), successor, lambda kept: verdict_on(kept, now), now
        )
        if exchange is None:
            raise _not_valid()
        if exchange.verdict is Verdict.REVOKE_FAMILY:
            logger.warning(
                "a spent refresh token came again: its family is revoked",
                extra={"user_id": str(exchange.user.id), "family_id": str(exchange.family_id)},
            )
        if exchange.verdict is not Verdict.ROTATE:
            raise _not_valid()
        return self._session(exchange.user, secret)

    def end(self, refresh_token: str) -> None:
        """End the session that any of its refresh tokens names; an unknown one names none."""
        self._tokens.revoke_family(_hash_of(refresh_token), self._clock())

    def _new_token(self, now: datetime) -> tuple[str, NewToken]:
        secret = urlsafe_b64encode(self._random_bytes(REFRESH_TOKEN_BYTES)).rstrip(b"=").decode()
        return secret, NewToken(_hash_of(secret), now + self._ttl)

    def _session(self, user: User, refresh_token: str) -> Session:
        access = self._issuer.issue(user)
        return Session(
            token=access.token, expires_in=access.expires_in, refresh_token=refresh_token
        )


def _hash_of(refresh_token: str) -> bytes:
    """Return what is kept of a token; 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(refresh_token.encode()).digest()


def _not_valid() -> Unauthenticated:
    return Unauthenticated(
        "invalid_refresh_token", "The refresh token is not valid any more: log in again."
    )
