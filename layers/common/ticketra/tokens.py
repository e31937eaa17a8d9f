"""Access tokens: the one place where they are verified.

Tokens are JWTs signed with Ed25519 (`EdDSA`, RFC 8037). Only identity holds the private key; every
other function holds the public key set (RFC 7517) and verifies.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jwt

from ticketra.errors import Unauthenticated, Unavailable

ALGORITHM = "EdDSA"
TOKEN_TYPE = "at+jwt"  # noqa: S105 - RFC 9068's media type, not a secret
KEYS_TTL_S = 300.0
KEYS_MIN_REFRESH_S = 10.0
CLOCK_SKEW_S = 5
REQUIRED_CLAIMS = ["sub", "role", "iss", "aud", "exp", "iat", "jti"]

Role = Literal["user", "admin"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request, as their token proves."""

    user_id: str
    role: Role


class TokenVerifier:
    """Verifies access tokens against a public key set that `load_jwks` returns as JSON.

    The set is kept for KEYS_TTL_S and read again, at most every KEYS_MIN_REFRESH_S, when a token
    names a key that is not in it: a new key is known at once after a rotation, and forged key ids
    cannot make us read it without end.
    """

    def __init__(
        self,
        load_jwks: Callable[[], str],
        *,
        issuer: str,
        audience: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load_jwks = load_jwks
        self._issuer = issuer
        self._audience = audience
        self._monotonic = monotonic
        self._keys: dict[str, jwt.PyJWK] = {}
        self._loaded_at: float | None = None

    def verify(self, token: str) -> Principal:
        """Return who `token` speaks for.

        Raises:
            Unauthenticated: the token is not one of ours, or not valid now.
            Unavailable: the keys cannot be read, and the one that is needed is not known yet.

        """
        try:
            header = jwt.get_unverified_header(token)
            key = self._key(header)
            # Checks also `exp`, `iat`, and `nbf` where there is one, and every claim's type.
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[ALGORITHM],
                audience=self._audience,
                issuer=self._issuer,
                leeway=CLOCK_SKEW_S,
                options={"require": REQUIRED_CLAIMS},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated(
                "token_expired", "The access token has expired: log in or refresh it."
            ) from None
        except jwt.PyJWTError:
            raise _invalid() from None
        return _principal(claims)

    def _key(self, header: dict[str, Any]) -> jwt.PyJWK:
        if header.get("typ") != TOKEN_TYPE:
            raise _invalid()
        kid = header.get("kid")
        if not isinstance(kid, str):
            raise _invalid()
        if self._is_older_than(KEYS_TTL_S) or (
            kid not in self._keys and self._is_older_than(KEYS_MIN_REFRESH_S)
        ):
            self._read_keys(wanted=kid)
        if kid not in self._keys:
            raise _invalid()
        return self._keys[kid]

    def _is_older_than(self, seconds: float) -> bool:
        return self._loaded_at is None or self._monotonic() - self._loaded_at >= seconds

    def _read_keys(self, *, wanted: str) -> None:
        try:
            jwks = json.loads(self._load_jwks())
        except Unavailable:
            if wanted not in self._keys:
                raise
            # An old copy of the public keys is better than no service; ask again a little later.
            self._loaded_at = self._monotonic() - KEYS_TTL_S + KEYS_MIN_REFRESH_S
            return
        self._keys = {key["kid"]: jwt.PyJWK(key, ALGORITHM) for key in jwks["keys"]}
        self._loaded_at = self._monotonic()


def _principal(claims: dict[str, Any]) -> Principal:
    role = claims["role"]
    if role not in ("user", "admin") or not isinstance(claims["sub"], str):
        raise _invalid()
    return Principal(user_id=claims["sub"], role=role)


def _invalid() -> Unauthenticated:
    return Unauthenticated("invalid_token", "The access token is not valid: log in again.")
