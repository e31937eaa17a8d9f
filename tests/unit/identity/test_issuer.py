import json
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from identity.issuer import RING_TTL_S, CachedKeys, KeyRing, TokenIssuer
from identity.models import User
from tests.unit.common.support import AUDIENCE, ISSUER, USER_ID, SigningKey
from ticketra.errors import Unavailable
from ticketra.tokens import TokenVerifier

NOW = datetime(2026, 7, 20, 21, 0, 0, 500_000, tzinfo=UTC)
USER = User.model_validate(
    {"id": USER_ID, "email": "a@example.com", "role": "admin", "created_at": NOW}
)


def _ring(active: SigningKey, *others: SigningKey) -> KeyRing:
    keys = [{"kid": key.kid, "private_key_pem": key.pem} for key in (active, *others)]
    return KeyRing.from_secret(json.dumps({"active": active.kid, "keys": keys}))


def _issuer(ring: KeyRing, now: datetime = NOW) -> TokenIssuer:
    return TokenIssuer(
        lambda: ring,
        issuer=ISSUER,
        audience=AUDIENCE,
        ttl_s=900,
        clock=lambda: now,
        random_bytes=bytes,
    )


def test_claims_and_header() -> None:
    key = SigningKey()

    issued = _issuer(_ring(key)).issue(USER)

    claims = jwt.decode(issued.token, options={"verify_signature": False})
    issued_at = int(NOW.timestamp())
    assert jwt.get_unverified_header(issued.token) == {
        "alg": "EdDSA",
        "kid": "key-1",
        "typ": "at+jwt",
    }
    assert claims.pop("jti")
    assert claims == {
        "sub": USER_ID,
        "role": "admin",
        "iss": ISSUER,
        "aud": AUDIENCE,
        "iat": issued_at,
        "nbf": issued_at,
        "exp": issued_at + 900,
    }
    assert issued.expires_in == 900


def test_a_rotation_logs_nobody_out() -> None:
    old, new = SigningKey("old"), SigningKey("new")
    now = datetime.now(UTC)
    before = _issuer(_ring(old), now).issue(USER)
    rotated = _issuer(_ring(new, old), now)
    verifier = TokenVerifier(rotated.jwks, issuer=ISSUER, audience=AUDIENCE)

    assert verifier.verify(before.token).user_id == USER_ID
    assert jwt.get_unverified_header(rotated.issue(USER).token)["kid"] == "new"
    assert verifier.verify(rotated.issue(USER).token).user_id == USER_ID


def test_the_next_key_signs_from_its_time_on_and_is_known_before() -> None:
    old, new = SigningKey("old"), SigningKey("new")
    secret = {
        "active": "old",
        "next": {"kid": "new", "signs_from": "2026-07-20T23:00:01+02:00"},
        "keys": [{"kid": key.kid, "private_key_pem": key.pem} for key in (new, old)],
    }
    ring = KeyRing.from_secret(json.dumps(secret))

    assert ring.jwks() == {"keys": [new.jwk, old.jwk]}
    for now, kid in ((NOW, "old"), (NOW + timedelta(seconds=0.5), "new")):
        token = _issuer(ring, now).issue(USER).token
        assert jwt.get_unverified_header(token)["kid"] == kid


class Stored:
    """A secret that changes or is away, and a clock that tests set."""

    def __init__(self) -> None:
        self.ring = _ring(SigningKey("old"))
        self.away = False
        self.reads = 0
        self.now = 1000.0
        self.keys = CachedKeys(self.load, monotonic=lambda: self.now)

    def load(self) -> KeyRing:
        self.reads += 1
        if self.away:
            raise Unavailable("temporarily_unavailable", "Away.")
        return self.ring


def test_a_change_of_the_keys_is_seen_within_their_time() -> None:
    stored = Stored()
    old = stored.keys()
    stored.ring = _ring(SigningKey("new"))

    stored.now += RING_TTL_S - 1
    assert stored.keys() is old
    stored.now += 1
    assert stored.keys() is stored.ring
    assert stored.reads == 2


def test_known_keys_sign_on_while_the_secret_cannot_be_read() -> None:
    stored = Stored()
    old = stored.keys()
    stored.away = True
    stored.now += RING_TTL_S

    assert [stored.keys() for _ in range(3)] == [old] * 3
    assert stored.reads == 2  # the wait for it is not paid at every login
    stored.away = False
    stored.ring = _ring(SigningKey("new"))
    stored.now += RING_TTL_S
    assert stored.keys() is stored.ring


def test_without_any_keys_there_is_an_outage() -> None:
    stored = Stored()
    stored.away = True

    with pytest.raises(Unavailable):
        stored.keys()


def test_the_key_set_matches_what_rfc_8037_says_and_holds_no_private_part() -> None:
    key = SigningKey()

    assert _ring(key).jwks() == {"keys": [key.jwk]}


@pytest.mark.parametrize(
    "secret",
    [
        "{}",
        "hunter2",
        json.dumps({"active": "a", "keys": [{"kid": "b", "private_key_pem": "hunter2"}]}),
        json.dumps({"active": "b", "keys": []}),
        json.dumps(json.loads(SigningKey("a").secret) | {"next": {"kid": "a", "signs_from": "x"}}),
        json.dumps(
            json.loads(SigningKey("a").secret)
            | {"next": {"kid": "b", "signs_from": "2026-07-20T21:00:00Z"}}
        ),
    ],
)
def test_a_broken_secret_is_refused_without_showing_it(secret: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)key|pem|signs_from") as caught:
        KeyRing.from_secret(secret)

    assert "hunter2" not in str(caught.value)


def test_a_key_of_another_kind_is_refused() -> None:
    pem = (
        rsa.generate_private_key(65537, 2048)
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        .decode()
    )

    with pytest.raises(ValueError, match="not an Ed25519 key"):
        KeyRing.from_secret(
            json.dumps({"active": "a", "keys": [{"kid": "a", "private_key_pem": pem}]})
        )
