"""The Lambda entry point: settings are checked at cold start, clients are made when needed."""

import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field

from identity import attempt_store, database
from identity.attempt_store import SharedAttempts
from identity.database import Connection, Database
from identity.issuer import TOKEN_TTL_LIMIT_S, CachedKeys, KeyRing, TokenIssuer
from identity.logic import Accounts
from identity.refresh_store import RefreshTokenStore
from identity.routes import build_app
from identity.sessions import Sessions
from identity.slow_down import SlowDown
from identity.store import UserStore
from ticketra.auth import AccessPolicy
from ticketra.http import lambda_handler
from ticketra.secrets import credentials, present_secret
from ticketra.settings import load_settings
from ticketra.tokens import TokenVerifier

if TYPE_CHECKING:
    from redis import Redis


class Settings(BaseModel):
    """What the function needs from its environment; `*_secret` are names of secrets."""

    access_policy: AccessPolicy
    postgres_url: str
    postgres_secret: str
    token_keys_secret: str
    token_issuer: str
    token_audience: str
    token_ttl_s: Annotated[int, Field(ge=60, le=TOKEN_TTL_LIMIT_S)]
    redis_url: str
    redis_secret: str
    refresh_ttl_s: Annotated[int, Field(ge=300, le=31_536_000)] = 30 * 86_400
    bcrypt_cost: Annotated[int, Field(ge=4, le=16)] = 12
    failures_per_address: Annotated[int, Field(ge=5, le=1_000_000)] = 50


_settings = load_settings(Settings)


def _now() -> datetime:
    return datetime.now(UTC)


def _monotonic_ms() -> int:
    return int(time.monotonic() * 1000)


def _open_connection() -> Connection:
    return database.connect(_settings.postgres_url, credentials(_settings.postgres_secret))


def _open_redis() -> "Redis":
    return attempt_store.connect(_settings.redis_url, *credentials(_settings.redis_secret))


def _load_keys() -> KeyRing:
    return KeyRing.from_secret(present_secret(_settings.token_keys_secret))


_issuer = TokenIssuer(
    CachedKeys(_load_keys),
    issuer=_settings.token_issuer,
    audience=_settings.token_audience,
    ttl_s=_settings.token_ttl_s,
    clock=_now,
    random_bytes=os.urandom,
)
_database = Database(_open_connection)
_sessions = Sessions(
    RefreshTokenStore(_database),
    _issuer,
    ttl_s=_settings.refresh_ttl_s,
    clock=_now,
    random_bytes=os.urandom,
)
_accounts = Accounts(
    UserStore(_database),
    _sessions,
    SlowDown(
        SharedAttempts(_open_redis, _monotonic_ms),
        address_allowance=_settings.failures_per_address,
    ),
    policy=_settings.access_policy,
    bcrypt_cost=_settings.bcrypt_cost,
    clock=_now,
    random_bytes=os.urandom,
)
_verifier = TokenVerifier(
    _issuer.jwks, issuer=_settings.token_issuer, audience=_settings.token_audience
)

handler = lambda_handler(
    build_app(_accounts, _sessions, _issuer, verifier=_verifier, policy=_settings.access_policy)
)
