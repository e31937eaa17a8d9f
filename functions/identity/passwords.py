"""Passwords: what may be one, and how it is kept (bcrypt)."""

import unicodedata

import bcrypt

from ticketra.auth import AccessPolicy
from ticketra.errors import FieldError, Invalid

MIN_CHARS: dict[AccessPolicy, int] = {"strict": 8, "open": 3}
# bcrypt looks at 72 bytes and no further. A longer password is refused rather than hashed first:
# a bcrypt hash of an unsalted digest can be attacked with digests leaked elsewhere.
# Source: OWASP Password Storage Cheat Sheet, "Pre-Hashing Passwords with bcrypt".
LIMIT_BYTES = 72


def normalised(password: str) -> bytes:
    """Return the bytes of `password`, the same from every keyboard (NFC, RFC 8265 section 4.2)."""
    return unicodedata.normalize("NFC", password).encode()


def check(password: str, policy: AccessPolicy, *, field: str = "password") -> None:
    """Accept `password`, which the request's `field` holds, for an account.

    Raises:
        Invalid: it is too short, too long or holds control characters.

    """
    minimum = MIN_CHARS[policy]
    if len(password) < minimum:
        raise _refused(field, f"must have at least {minimum} characters")
    if len(normalised(password)) > LIMIT_BYTES:
        raise _refused(field, f"must have at most {LIMIT_BYTES} bytes in UTF-8")
    if any(unicodedata.category(character) == "Cc" for character in password):
        raise _refused(field, "must not hold control characters")


def hashed(password: str, cost: int) -> str:
    """Return the bcrypt hash of `password`; each increment of `cost` doubles the work."""
    return bcrypt.hashpw(normalised(password), bcrypt.gensalt(cost)).decode()


def matches(password: str, password_hash: str | None, cost: int) -> bool:
    """Tell whether `password` is the one behind `password_hash`.

    Without a hash (there is no such user) the answer is no, after the same work.
    """
    candidate = normalised(password)
    if password_hash is None or len(candidate) > LIMIT_BYTES:
        bcrypt.checkpw(candidate[:LIMIT_BYTES], _dummy_hash(cost))
        return False
    return bcrypt.checkpw(candidate, password_hash.encode())


def _dummy_hash(cost: int) -> bytes:
    """Return a well-formed hash of no known password: salt and digest are all zeros."""
    return f"$2b${cost:02d}$".encode() + b"." * 53


def _refused(field: str, message: str) -> Invalid:
    return Invalid(
        "validation_failed",
        "Choose another password: see errors.",
        errors=[FieldError(field, message)],
    )
