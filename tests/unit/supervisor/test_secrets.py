import base64
import json
import stat
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from supervisor.secrets import SecretsError, load_or_make, read
from supervisor.settings import Settings

NAMES = {
    "ticketra/local/postgres/admin",
    "ticketra/local/postgres/identity",
    "ticketra/local/postgres/booking",
    "ticketra/local/postgres/payment",
    "ticketra/local/mongodb/admin",
    "ticketra/local/mongodb/event",
    "ticketra/local/rabbitmq",
    "ticketra/local/redis",
    "ticketra/local/token-keys",
    "ticketra/local/ticket-keys",
}


def test_secrets_are_made_once(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)

    first = load_or_make(settings).for_secrets_manager()

    assert load_or_make(settings).for_secrets_manager() == first
    assert set(first) == NAMES


def test_every_password_is_its_own(tmp_path: Path) -> None:
    values = load_or_make(Settings(home=tmp_path)).for_secrets_manager()

    passwords = [
        json.loads(values[name])["password"] for name in NAMES if not name.endswith("-keys")
    ]

    assert len(set(passwords)) == len(passwords)
    assert all(len(password) >= 32 for password in passwords)


def test_only_the_owner_reads_the_file(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)

    load_or_make(settings)

    assert stat.S_IMODE(settings.secrets_file.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["secrets.json"]


@pytest.mark.parametrize("name", ["redis", "ticket-keys"])
def test_a_secret_that_a_newer_version_needs_is_added(tmp_path: Path, name: str) -> None:
    settings = Settings(home=tmp_path)
    load_or_make(settings)
    kept = json.loads(settings.secrets_file.read_text())
    settings.secrets_file.write_text(json.dumps({n: v for n, v in kept.items() if n != name}))

    made = load_or_make(settings).for_secrets_manager()

    now = json.loads(settings.secrets_file.read_text())
    assert json.loads(made[f"ticketra/local/{name}"]) == now.pop(name) != kept.pop(name)
    assert now == kept


def test_a_damaged_file_is_never_overwritten(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    settings.secrets_file.write_text('{"redis": ')

    with pytest.raises(SecretsError, match=r"secrets\.json is damaged"):
        load_or_make(settings)

    assert settings.secrets_file.read_text() == '{"redis": '


def test_the_login_in_a_url_stands_in_and_is_not_kept(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, redis_url="rediss://me:p%40ss@cache.example:6379/0")

    secrets = load_or_make(settings)

    assert secrets.login("redis") == ("me", "p@ss")
    assert "p@ss" not in settings.secrets_file.read_text()
    assert load_or_make(Settings(home=tmp_path)).login("redis") != ("me", "p@ss")


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    login = load_or_make(Settings(home=tmp_path)).login("postgres/admin")

    assert login.password not in repr(login)


def test_reading_before_anything_was_made_makes_nothing(tmp_path: Path) -> None:
    assert read(Settings(home=tmp_path)).login("redis").password == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["token-keys", "ticket-keys"])
def test_a_key_set_verifies_what_its_private_key_signs(tmp_path: Path, name: str) -> None:
    secrets = load_or_make(Settings(home=tmp_path))
    keys = json.loads(secrets.for_secrets_manager()[f"ticketra/local/{name}"])
    [key] = keys["keys"]
    published = secrets.jwks() if name == "token-keys" else secrets.tickets_jwks()
    [public] = json.loads(published)["keys"]
    private = load_pem_private_key(key["private_key_pem"].encode(), password=None)
    assert isinstance(private, Ed25519PrivateKey)
    verifier = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(public["x"] + "=="))

    verifier.verify(private.sign(b"claims"), b"claims")
    with pytest.raises(InvalidSignature):
        verifier.verify(private.sign(b"claims"), b"others")
    assert keys["active"] == key["kid"] == public["kid"]
    assert public == {
        "kty": "OKP",
        "crv": "Ed25519",
        "alg": "EdDSA",
        "use": "sig",
        "kid": key["kid"],
        "x": public["x"],
    }


def test_tokens_and_tickets_have_keys_of_their_own(tmp_path: Path) -> None:
    secrets = load_or_make(Settings(home=tmp_path))

    assert secrets.token_keys["active"] != secrets.ticket_keys["active"]
    assert secrets.jwks() != secrets.tickets_jwks()
