"""Ticket codes: signed by one key, verified with the public keys alone."""

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.common.support import SigningKey
from ticketra.ticket_codes import InvalidCode, TicketClaims, TicketSigner, TicketVerifier

KEY = SigningKey("seats-1", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
TICKET = TicketClaims(
    "01890000-0000-7000-8000-00000000000a", "01890000-0000-7000-8000-00000000000b", "concert", 7
)
CLAIMS = {"jti": "a", "booking": "b", "event": "c", "number": 1}
HEADER = {"kid": KEY.kid, "typ": "ticket+jwt"}
# Printed codes stay valid: what is signed, and how it is written, cannot change unnoticed.
CODE = (
    "eyJhbGciOiJFZERTQSIsImtpZCI6InNlYXRzLTEiLCJ0eXAiOiJ0aWNrZXQrand0In0.eyJqdGkiOiIwMTg5MDAw"
    "MC0wMDAwLTcwMDAtODAwMC0wMDAwMDAwMDAwMGEiLCJib29raW5nIjoiMDE4OTAwMDAtMDAwMC03MDAwLTgwMDAt"
    "MDAwMDAwMDAwMDBiIiwiZXZlbnQiOiJjb25jZXJ0IiwibnVtYmVyIjo3fQ.wmLJ0GIjbe8d5_GQvA5ucavTM5RMP"
    "z0CcRehWy86bHZ9r041sGzs1np_d2dgX6mkctbDmT7BAy_CWUVh65C2Ag"
)


def secret(*keys: SigningKey, active: str = KEY.kid) -> str:
    return json.dumps(
        {
            "active": active,
            "keys": [{"kid": key.kid, "private_key_pem": key.pem} for key in keys],
        }
    )


def signed(key: SigningKey = KEY, header: dict[str, str] = HEADER, **changes: Any) -> str:
    """Return a code of CLAIMS with `changes`; a change to None leaves the claim out."""
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
    return jwt.encode(claims, key.private, algorithm="EdDSA", headers=header)


def test_a_code_says_which_ticket_it_is_to_whoever_has_the_public_keys() -> None:
    code = TicketSigner.from_secret(secret(KEY)).code(TICKET)
    assert TicketVerifier(KEY.jwks).verify(code) == TICKET


def test_a_ticket_has_one_code_whoever_signs_it() -> None:
    codes = {TicketSigner.from_secret(secret(KEY)).code(TICKET) for _ in range(3)}
    assert codes == {CODE}


def test_each_seat_has_a_code_of_its_own() -> None:
    signer = TicketSigner.from_secret(secret(KEY))
    assert signer.code(TICKET) != signer.code(TICKET._replace(number=8))


def test_codes_of_an_old_key_stay_valid_as_long_as_its_public_key_is_listed() -> None:
    new = SigningKey("seats-2")
    old_code = TicketSigner.from_secret(secret(KEY)).code(TICKET)
    new_code = TicketSigner.from_secret(secret(KEY, new, active=new.kid)).code(TICKET)
    assert jwt.get_unverified_header(new_code)["kid"] == new.kid
    both = TicketVerifier(json.dumps({"keys": [KEY.jwk, new.jwk]}))
    assert both.verify(old_code) == both.verify(new_code) == TICKET
    with pytest.raises(InvalidCode):
        TicketVerifier(new.jwks).verify(old_code)


def test_a_code_without_changes_is_taken() -> None:
    assert TicketVerifier(KEY.jwks).verify(signed()) == ("a", "b", "c", 1)


@pytest.mark.parametrize(
    "code",
    [
        "",
        "x",
        "a.b.c",
        signed()[:-4] + "AAAA",
        signed(SigningKey(KEY.kid)),
        signed(header={"kid": "another", "typ": "ticket+jwt"}),
        signed(header={"typ": "ticket+jwt"}),
        signed(header={"kid": KEY.kid, "typ": "at+jwt"}),
        signed(header={"kid": KEY.kid}),
        jwt.encode(CLAIMS, "", algorithm="none", headers=HEADER),
        jwt.encode(CLAIMS, KEY.jwk["x"], algorithm="HS256", headers=HEADER),
        signed(jti=None),
        signed(booking=None),
        signed(event=None),
        signed(number=None),
        signed(jti=1),
        signed(booking=1),
        signed(event=["c"]),
        signed(number="1"),
        signed(number=True),
        signed(number=1.5),
    ],
)
def test_what_the_key_did_not_sign_as_a_ticket_is_refused(code: str) -> None:
    with pytest.raises(InvalidCode):
        TicketVerifier(KEY.jwks).verify(code)


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_refused_as_a_code(head: str, tail: str) -> None:
    with pytest.raises(InvalidCode):
        TicketVerifier(KEY.jwks).verify(f"{head}.{tail}")


def test_an_access_token_is_no_ticket() -> None:
    with pytest.raises(InvalidCode):
        TicketVerifier(KEY.jwks).verify(KEY.token())


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "[]",
        "{}",
        secret(KEY, active="another"),
        secret(KEY, KEY),
        secret(),
        json.dumps({"active": "k", "keys": [{"kid": "k", "private_key_pem": "hidden"}]}),
        json.dumps({"active": "k", "keys": [{"kid": "k", "private_key_pem": "\ud800hidden"}]}),
        json.dumps({"active": "k", "keys": [{"kid": "k"}]}),
    ],
)
def test_a_wrong_secret_is_refused_without_being_told(wrong: str) -> None:
    with pytest.raises(ValueError, match="must be") as refused:
        TicketSigner.from_secret(wrong)
    assert "hidden" not in str(refused.value)
    assert "PRIVATE KEY" not in str(refused.value)
