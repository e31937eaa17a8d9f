"""Ticket codes: what a door scans, and the one place where they are signed and verified.

A code is a JWS (RFC 7515) that says which ticket it is, signed with Ed25519 (`EdDSA`, RFC 8037).
The same ticket and key give the same code each time, so that no code is stored anywhere. A verifier
needs the public key set (RFC 7517) and nothing else; that a ticket became void it cannot see.
"""

import json
from typing import Any, NamedTuple

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import BaseModel, Field, ValidationError

ALGORITHM = "EdDSA"
CODE_TYPE = "ticket+jwt"
CLAIMS = ["jti", "booking", "event", "number"]


class TicketClaims(NamedTuple):
    """What a code says: which seat of which booking and event it is. Ids are texts."""

    ticket_id: str
    booking_id: str
    event_id: str
    number: int


class InvalidCode(Exception):  # noqa: N818 - an answer, not a failure of ours
    """The code was not signed by one of the keys, or says something else than codes do."""


class _Key(BaseModel):
    kid: str
    private_key_pem: str = Field(repr=False)


class _KeysSecret(BaseModel):
    active: str
    keys: list[_Key]


class TicketSigner:
    """Signs codes with the active key; all that it holds is secret."""

    def __init__(self, kid: str, key: Ed25519PrivateKey) -> None:
        self._header = {"kid": kid, "typ": CODE_TYPE}
        self._key = key

    @classmethod
    def from_secret(cls, value: str) -> "TicketSigner":
        """Read `{"active": kid, "keys": [{"kid", "private_key_pem"}, ...]}`.

        Raises:
            ValueError: the secret does not have this shape; the message holds nothing of it.

        """
        try:
            secret = _KeysSecret.model_validate_json(value)
            [pem] = [key.private_key_pem for key in secret.keys if key.kid == secret.active]
            key = load_pem_private_key(pem.encode(), password=None)
        except (ValidationError, ValueError, TypeError, UnsupportedAlgorithm):
            raise _wrong_secret() from None
        if not isinstance(key, Ed25519PrivateKey):
            raise _wrong_secret()
        return cls(secret.active, key)

    def code(self, ticket: TicketClaims) -> str:
        """Return the code of a ticket: the same one each time, as long as the key is the same."""
        return jwt.encode(
            dict(zip(CLAIMS, ticket, strict=True)),
            self._key,
            algorithm=ALGORITHM,
            headers=self._header,
            sort_headers=True,
        )


class TicketVerifier:
    """Tells real codes from others, offline; `jwks` is the public key set as JSON."""

    def __init__(self, jwks: str) -> None:
        self._keys = {key["kid"]: jwt.PyJWK(key, ALGORITHM).key for key in json.loads(jwks)["keys"]}

    def verify(self, code: str) -> TicketClaims:
        """Return what `code` says.

        Raises:
            InvalidCode: it is not a code of ours.

        """
        try:
            header = jwt.get_unverified_header(code)
            if header.get("typ") != CODE_TYPE:
                raise InvalidCode
            claims = jwt.decode(
                code, self._key(header), algorithms=[ALGORITHM], options={"require": CLAIMS}
            )
        except jwt.PyJWTError:
            raise InvalidCode from None
        return _checked(TicketClaims(*(claims[name] for name in CLAIMS)))

    def _key(self, header: dict[str, Any]) -> Any:
        kid = header.get("kid")
        if not isinstance(kid, str) or kid not in self._keys:
            raise InvalidCode
        return self._keys[kid]


def _checked(claims: TicketClaims) -> TicketClaims:
    texts = all(isinstance(claim, str) for claim in claims[:3])
    if not texts or type(claims.number) is not int:
        raise InvalidCode
    return claims


def _wrong_secret() -> ValueError:
    return ValueError(
        'must be {"active": kid, "keys": [{"kid", "private_key_pem"}]} with Ed25519 keys in PEM'
    )
