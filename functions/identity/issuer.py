"""Minting access tokens: only this function holds the private keys."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import OKPAlgorithm
from pydantic import BaseModel, ConfigDict, Field

from identity.models import AccessToken, User
from ticketra.ids import Clock, RandomBytes, uuid7_at
from ticketra.tokens import ALGORITHM, TOKEN_TYPE


class _Key(BaseModel):
    kid: str
    private_key_pem: str = Field(repr=False)


class _KeysSecret(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    active: str
    keys: list[_Key]


class KeyRing:
    """The signing keys: one is active, the others still verify tokens that they signed."""

    def __init__(self, active: str, keys: dict[str, Ed25519PrivateKey]) -> None:
        self.active = active
        self._keys = keys

    @classmethod
    def from_secret(cls, value: str) -> "KeyRing":
        """Read `{"active": kid, "keys": [{"kid", "private_key_pem"}]}`.

        Raises:
            ValueError: the secret does not have this shape; the message holds nothing of it.

        """
        secret = _KeysSecret.model_validate_json(value)
        keys = {key.kid: _private_key(key) for key in secret.keys}
        if secret.active not in keys:
            raise ValueError(f"the active token key {secret.active!r} is not among the keys")
        return cls(secret.active, keys)

    def sign(self, claims: dict[str, Any]) -> str:
        """Return `claims` as a JWT signed with the active key."""
        return jwt.encode(
            claims,
            self._keys[self.active],
            algorithm=ALGORITHM,
            headers={"kid": self.active, "typ": TOKEN_TYPE},
        )

    def jwks(self) -> dict[str, Any]:
        """Return the public key set (RFC 7517)."""
        return {"keys": [_public_jwk(kid, key) for kid, key in self._keys.items()]}


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

    def issue(self, user: User) -> AccessToken:
        """Return a token with the claims that `ticketra.tokens` requires."""
        now = self._clock()
        token = self._load_keys().sign(
            {
                "sub": str(user.id),
                "role": user.role,
                "iss": self._issuer,
                "aud": self._audience,
                "iat": int(now.timestamp()),
                "exp": int((now + self._ttl).timestamp()),
                "jti": str(uuid7_at(now, self._random_bytes)),
            }
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
