"""The instance's credentials and keys: made once, kept in one file that only its owner reads."""

import base64
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from supervisor.private_file import write_private
from supervisor.settings import STAGE, Settings

PREFIX = f"ticketra/{STAGE}"
JWKS_PARAMETER = f"/{PREFIX}/token/jwks"
TICKETS_JWKS_PARAMETER = f"/{PREFIX}/tickets/jwks"
PASSWORD_BYTES = 24
POSTGRES_ADMIN = "ticketra_admin"
MONGODB_ADMIN = "ticketra_admin"
RABBITMQ_USER = "ticketra"

# The name below the prefix, and the user whose password is made for it.
_USERS = {
    "postgres/admin": POSTGRES_ADMIN,
    "postgres/identity": "identity",
    "postgres/booking": "booking",
    "postgres/payment": "payment",
    "mongodb/admin": MONGODB_ADMIN,
    "mongodb/event": "event",
    "rabbitmq": RABBITMQ_USER,
    "redis": "",
}
_TOKEN_KEYS = "token-keys"  # noqa: S105 - a name
TOKEN_KEYS_SECRET = f"{PREFIX}/{_TOKEN_KEYS}"
_TICKET_KEYS = "ticket-keys"
TICKET_KEYS_SECRET = f"{PREFIX}/{_TICKET_KEYS}"
_MONGODB_KEY = "mongodb-key"


class SecretsError(Exception):
    """The secrets file is there but cannot be used."""


class Login(NamedTuple):
    """A user name and a password; the user is empty where the server knows only a password."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login(username={self.username!r})"


class Secrets:
    """What the servers and the deployed functions authenticate with.

    Credentials in the URLs of servers that run elsewhere stand in for the generated ones; they are
    never written into the file.
    """

    def __init__(self, generated: Mapping[str, Any], elsewhere: Mapping[str, Login]) -> None:
        self._generated = generated
        self._elsewhere = elsewhere

    def login(self, name: str) -> Login:
        """Return the login of a server, by its name below the prefix (`postgres/admin`)."""
        if name in self._elsewhere:
            return self._elsewhere[name]
        value = self._generated[name]
        return Login(value["username"], value["password"])

    @property
    def mongodb_key(self) -> str:
        """The key that members of the replica set know each other by."""
        return str(self._generated[_MONGODB_KEY])

    def for_secrets_manager(self) -> dict[str, str]:
        """Return the value of each secret by its full name."""
        values = {name: self.login(name)._asdict() for name in _USERS}
        values |= {name: self._generated[name] for name in (_TOKEN_KEYS, _TICKET_KEYS)}
        return {f"{PREFIX}/{name}": json.dumps(value) for name, value in values.items()}

    @property
    def token_keys(self) -> Mapping[str, Any]:
        """The keys that access tokens are signed with; see `supervisor.token_keys`."""
        ring: Mapping[str, Any] = self._generated[_TOKEN_KEYS]
        return ring

    def with_token_keys(self, ring: Mapping[str, Any]) -> "Secrets":
        """Return these secrets with other token keys."""
        return Secrets({**self._generated, _TOKEN_KEYS: ring}, self._elsewhere)

    @property
    def ticket_keys(self) -> Mapping[str, Any]:
        """The keys that tickets' codes are signed with; see `supervisor.ticket_keys`."""
        ring: Mapping[str, Any] = self._generated[_TICKET_KEYS]
        return ring

    def with_ticket_keys(self, ring: Mapping[str, Any]) -> "Secrets":
        """Return these secrets with other keys for tickets."""
        return Secrets({**self._generated, _TICKET_KEYS: ring}, self._elsewhere)

    def generated(self) -> str:
        """Return what was made here, as the secrets file holds it."""
        return json.dumps(self._generated, indent=2)

    def jwks(self) -> str:
        """Return the public halves of the token keys as a JSON Web Key Set (RFC 7517, RFC 8037)."""
        return _key_set(self.token_keys)

    def tickets_jwks(self) -> str:
        """Return the public halves of the tickets' keys, likewise."""
        return _key_set(self.ticket_keys)


def load_or_make(settings: Settings) -> Secrets:
    """Read the instance's secrets; make those that are missing and keep them.

    Raises:
        SecretsError: the file is damaged.

    """
    kept = _read(settings.secrets_file)
    made = {name: value for name, value in _make().items() if name not in kept}
    secrets = Secrets({**kept, **made}, _logins_elsewhere(settings))
    if made:
        keep(settings, secrets)
    return secrets


def keep(settings: Settings, secrets: Secrets) -> None:
    """Write the secrets file."""
    write_private(settings.secrets_file, secrets.generated())


def read(settings: Settings) -> Secrets:
    """Return the instance's secrets as they are; empty ones stand in for those not made yet.

    Raises:
        SecretsError: the file is damaged.

    """
    nobody = {name: {"username": user, "password": ""} for name, user in _USERS.items()}
    return Secrets({**nobody, **_read(settings.secrets_file)}, _logins_elsewhere(settings))


def _read(file: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError:
        raise SecretsError(
            f"{file} is damaged; restore it, or remove it together with the data (make clean)."
        ) from None
    return value


def _make() -> dict[str, Any]:
    made: dict[str, Any] = {
        name: {"username": user, "password": secrets.token_urlsafe(PASSWORD_BYTES)}
        for name, user in _USERS.items()
    }
    for name in (_TOKEN_KEYS, _TICKET_KEYS):
        key = signing_key()
        made[name] = {"active": key["kid"], "keys": [key]}
    # MongoDB wants the characters of base64 only.
    made[_MONGODB_KEY] = base64.b64encode(secrets.token_bytes(72)).decode()
    return made


def signing_key() -> dict[str, str]:
    """Make a key that access tokens or tickets' codes are signed with."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    return {"kid": secrets.token_hex(8), "private_key_pem": pem.decode()}


def _key_set(ring: Mapping[str, Any]) -> str:
    return json.dumps({"keys": [_public_jwk(key) for key in ring["keys"]]})


def _public_jwk(key: Mapping[str, str]) -> dict[str, str]:
    private = load_pem_private_key(key["private_key_pem"].encode(), password=None)
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": key["kid"], "x": x}


def _logins_elsewhere(settings: Settings) -> dict[str, Login]:
    urls = {
        "postgres/admin": settings.postgres_url,
        "mongodb/admin": settings.mongodb_url,
        "rabbitmq": settings.rabbitmq_url,
        "redis": settings.redis_url,
    }
    return {name: _login(url) for name, url in urls.items() if url}


def _login(url: str) -> Login:
    parts = urlsplit(url)
    return Login(unquote(parts.username or ""), unquote(parts.password or ""))
