"""The Lambda entry point: settings are checked at cold start, clients are made when needed."""

import os
from datetime import UTC, datetime
from functools import cache
from typing import Annotated

from pydantic import BaseModel, Field

from identity.issuer import KeyRing, TokenIssuer
from identity.logic import Accounts
from identity.routes import build_app
from identity.store import Connection, UserStore, connect
from ticketra.auth import AccessPolicy
from ticketra.http import lambda_handler
from ticketra.secrets import credentials, secret_string
from ticketra.settings import load_settings
from ticketra.tokens import TokenVerifier


class Settings(BaseModel):
    """What the function needs from its environment; `*_secret` are names of secrets."""

    access_policy: AccessPolicy
    postgres_url: str
    postgres_secret: str
    token_keys_secret: str
    token_issuer: str
    token_audience: str
    token_ttl_s: Annotated[int, Field(ge=60, le=86_400)]
    bcrypt_cost: Annotated[int, Field(ge=4, le=16)] = 12


_settings = load_settings(Settings)


def _now() -> datetime:
    return datetime.now(UTC)


def _open_connection() -> Connection:
    return connect(_settings.postgres_url, credentials(_settings.postgres_secret))


@cache
def _keys() -> KeyRing:
    return KeyRing.from_secret(secret_string(_settings.token_keys_secret))


_issuer = TokenIssuer(
    _keys,
    issuer=_settings.token_issuer,
    audience=_settings.token_audience,
    ttl_s=_settings.token_ttl_s,
    clock=_now,
    random_bytes=os.urandom,
)
_accounts = Accounts(
    UserStore(_open_connection),
    _issuer,
    policy=_settings.access_policy,
    bcrypt_cost=_settings.bcrypt_cost,
    clock=_now,
    random_bytes=os.urandom,
)
_verifier = TokenVerifier(
    _issuer.jwks, issuer=_settings.token_issuer, audience=_settings.token_audience
)

handler = lambda_handler(build_app(_accounts, verifier=_verifier, policy=_settings.access_policy))
