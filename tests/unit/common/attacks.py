"""Access tokens that must be refused; each is made when it is used, because tokens expire."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

from tests.unit.common.support import SigningKey

KEY = SigningKey()
ATTACKER = SigningKey()  # under the kid of ours


def part(value: Any) -> str:
    """Return one part of a JWT."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def signed(headers: dict[str, Any], key: SigningKey = KEY, **changes: Any) -> str:
    """Sign by hand, because a library would not make some of these headers."""
    head_and_claims = f"{part({'alg': 'EdDSA'} | headers)}.{part(key.claims(**changes))}"
    signature = key.private.sign(head_and_claims.encode())
    return f"{head_and_claims}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _hmac_token(algorithm: str) -> str:
    """Sign with the public key as if it were a shared secret, which libraries once took."""
    head = part({"alg": algorithm, "kid": KEY.kid, "typ": "at+jwt"})
    head_and_claims = f"{head}.{part(KEY.claims())}"
    digest = hmac.new(KEY.public_pem, head_and_claims.encode(), hashlib.sha256).digest()
    return f"{head_and_claims}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def _tampered() -> str:
    header, _, signature = KEY.token().split(".")
    return f"{header}.{part(KEY.claims(role='admin'))}.{signature}"


def _nested_header() -> str:
    deep = base64.urlsafe_b64encode(b'{"kid":' + b"[" * 3_000).rstrip(b"=").decode()
    return f"{deep}.e30.AA"


def _later() -> int:
    return int(time.time()) + 600


VALID_HEADERS = {"kid": KEY.kid, "typ": "at+jwt"}
# Where a token says that its own key is to be found; nobody may look there.
KEY_HEADERS: dict[str, Any] = {
    "jwk": ATTACKER.jwk,
    "jku": "http://127.0.0.1:9/jwks.json",
    "x5u": "http://127.0.0.1:9/certificate.pem",
    "x5c": ["MIIB"],
}
ATTACKS: dict[str, Callable[[], str]] = {
    "not a token": lambda: "abc",
    "three empty parts": lambda: "..",
    "a refresh token": lambda: base64.urlsafe_b64encode(bytes(range(32))).rstrip(b"=").decode(),
    "unsigned": lambda: f"{part({'alg': 'none', **VALID_HEADERS})}.{part(KEY.claims())}.",
    "unsigned, in other letters": lambda: signed({"alg": "nOnE", **VALID_HEADERS}),
    "public key as HS256 secret": lambda: _hmac_token("HS256"),
    "public key as HS512 secret": lambda: _hmac_token("HS512"),
    "HS256 said to be EdDSA": lambda: _hmac_token("EdDSA"),
    "EdDSA said to be RS256": lambda: signed({"alg": "RS256", **VALID_HEADERS}),
    "another key under our kid": lambda: signed(VALID_HEADERS, ATTACKER),
    **{
        f"another key, named in {name}": lambda name=name, value=value: signed(  # type: ignore[misc]
            VALID_HEADERS | {name: value}, ATTACKER
        )
        for name, value in KEY_HEADERS.items()
    },
    "unknown kid": lambda: signed({"kid": "key-2", "typ": "at+jwt"}),
    "kid is a path": lambda: signed({"kid": "../../dev/null", "typ": "at+jwt"}),
    "kid is a number": lambda: signed({"kid": 1, "typ": "at+jwt"}),
    "kid is a list": lambda: signed({"kid": [KEY.kid], "typ": "at+jwt"}),
    "no type": lambda: signed({"kid": KEY.kid}),
    "critical extension": lambda: signed(VALID_HEADERS | {"crit": ["x"], "x": 1}),
    "no kid": lambda: signed({"typ": "at+jwt"}),
    "an id token": lambda: signed({"kid": KEY.kid, "typ": "JWT"}),
    "tampered claims": _tampered,
    "cut signature": lambda: KEY.token()[:-10],
    "other issuer": lambda: KEY.token(iss="https://elsewhere.test"),
    "our issuer among others": lambda: signed(VALID_HEADERS, iss=["https://issuer.test", "x"]),
    "other audience": lambda: KEY.token(aud="other"),
    "no issuer": lambda: KEY.token(iss=None),
    "no audience": lambda: KEY.token(aud=None),
    "no expiry": lambda: KEY.token(exp=None),
    "expiry is text": lambda: signed(VALID_HEADERS, exp="never"),
    "no time of issue": lambda: KEY.token(iat=None),
    "no subject": lambda: KEY.token(sub=None),
    "no id": lambda: KEY.token(jti=None),
    "no role": lambda: KEY.token(role=None),
    "unknown role": lambda: KEY.token(role="root"),
    "role is a list": lambda: KEY.token(role=["admin"]),
    "subject is a number": lambda: KEY.token(sub=7),
    "issued in the future": lambda: KEY.token(iat=_later()),
    "good only in the future": lambda: KEY.token(nbf=_later()),
    "good from no time on": lambda: signed(VALID_HEADERS, nbf="soon"),
    "header nested without end": _nested_header,
    "not ASCII": lambda: "é.é.é",
}
EXPIRED: Callable[[], str] = lambda: KEY.token(exp=int(time.time()) - 600)  # noqa: E731
