"""Minting access tokens: only this function holds the private keys."""

import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import OKPAlgorithm
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from identity.models import AccessToken, User
from ticketra.errors import Unavailable
from ticketra.ids import Clock, RandomBytes, uuid7_at
from ticketra.tokens import ALGORITHM, TOKEN_TYPE

RING_TTL_S = 60.0
"""how late a rotation may be seen; a new key is published for longer before it signs"""

TOKEN_TTL_LIMIT_S = 86_400
"""for so long a key that has given way must go on verifying"""


class _Key(BaseModel):
    kid: str
    private_key_pem: str = Field(repr=False)


class _NextKey(BaseModel):
    kid: str
    signs_from: AwareDatetime


class _KeysSecret(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    active: str
    next: _NextKey | None = None
    keys: list[_Key]


class KeyRing:
    """The signing keys: one signs, the others verify tokens that they signed or will sign."""

    def __init__(self, secret: _KeysSecret) -> None:
        self._active = secret.active
        self._next = secret.next
        self._keys = {key.kid: _private_key(key) for key in secret.keys}
        named = {self._active} if self._next is None else {self._active, self._next.kid}
        if not named <= self._keys.keys():
            raise ValueError(f"a token key of {sorted(named)} is not among the keys")

    @classmethod
    def from_secret(cls, value: str) -> "KeyRing":
        """Read `{"active": kid, "next": {"kid", "signs_from"}, "keys": [...]}`.

        A key is `{"kid", "private_key_pem"}`. `next`, if there is one, takes over at `signs_from`.

        Raises:
            ValueError: the secret does not have this shape; the message holds nothing of it.

        """
        return cls(_KeysSecret.model_validate_json(value))

    def sign(self, claims: dict[str, Any], now: datetime) -> str:
        """Return `claims` as a JWT signed with the key whose turn it is at `now`."""
        kid = self._signing_at(now)
        return jwt.encode(
            claims,
            self._keys[kid],
            algorithm=ALGORITHM,
            headers={"kid": kid, "typ": TOKEN_TYPE},
        )

    def jwks(self) -> dict[str, Any]:
        """Return the public key set (RFC 7517)."""
        return {"keys": [_public_jwk(kid, key) for kid, key in self._keys.items()]}

    def _signing_at(self, now: datetime) -> str:
        if self._next is not None and now >= self._next.signs_from:
            return self._next.kid
        return self._active


class CachedKeys:
    """Keeps the key ring that `load` returns for RING_TTL_S; a call returns it.

    While it cannot be read again the old one serves on: it signed well a minute ago.
    """

    def __init__(
        self, load: Callable[[], KeyRing], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._load = load
        self._monotonic = monotonic
        self._ring: KeyRing | None = None
        self._loaded_at = 0.0

    def __call__(self) -> KeyRing:
        """Return the key ring.

        Raises:
            Unavailable: it cannot be read, and never could.

        """
        if self._ring is not None and self._monotonic() - self._loaded_at < RING_TTL_S:
            return self._ring
        try:
            self._ring = self._load()
        except Unavailable:
            if self._ring is None:
                raise
        self._loaded_at = self._monotonic()
        return self._ring


class TokenIssuer:
    """Issues access tokens for users; `load_keys` is called for each, so that it may cache."""

    def __init__(
        self,
        load_keys: Callable[[], KeyRing],
        *,
        issuer: str,
        audience: str,
        ttl_s: int,
        clock: Clock,
        random_bytes: RandomBytes,
    ) -> None:
        self._load_keys = load_keys
        self._issuer = issuer
        self._audience = audience
        self._ttl = timedelta(seconds=ttl_s)
        self._clock = clock
        self._random_bytes = random_bytes

    def require_keys(self) -> None:
        """Find out whether a token could be issued now.

        Raises:
            Unavailable: the keys cannot be read.

        """
        self._load_keys()

    def issue(self, user: User) -> AccessToken:
        """Return a token with the claims that `ticketra.tokens` requires."""
        now = self._clock()
        issued_at = int(now.timestamp())
        token = self._load_keys().sign(
            {
                "sub": str(user.id),
                "role": user.role,
                "iss": self._issuer,
                "aud": self._audience,
                "iat": issued_at,
                "nbf": issued_at,
                "exp": int((now + self._ttl).timestamp()),
                "jti": str(uuid7_at(now, self._random_bytes)),
            },
            now,
        )
        return AccessToken(token=token, expires_in=int(self._ttl.total_seconds()))

    def jwks(self) -> str:
        """Return the public key set as JSON."""
        return json.dumps(self._load_keys().jwks())


def _private_key(key: _Key) -> Ed25519PrivateKey:
    loaded = load_pem_private_key(key.private_key_pem.encode(), password=None)
    if not isinstance(loaded, Ed25519PrivateKey):
        raise ValueError(f"token key {key.kid!r} is not an Ed25519 key")  # noqa: TRY004
    return loaded


def _public_jwk(kid: str, key: Ed25519PrivateKey) -> dict[str, Any]:
    jwk = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {"kty": jwk["kty"], "crv": jwk["crv"], "x": jwk["x"]} | {
        "kid": kid,
        "alg": ALGORITHM,
        "use": "sig",
    }
