"""Users, and the bodies of identity's requests and answers."""

import re
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ticketra.tokens import Role

EMAIL_LIMIT_CHARS = 254  # RFC 5321, section 4.5.3.1.3, without the angle brackets
PASSWORD_LIMIT_CHARS = 72
REFRESH_TOKEN_LIMIT_CHARS = 128

# What a browser's <input type=email> takes: https://html.spec.whatwg.org/#valid-e-mail-address
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_EMAIL = re.compile(rf"[a-z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@{_LABEL}(?:\.{_LABEL})*")


def _normalised(value: object) -> object:
    """One address has one spelling: no space around it, all in lower case."""
    return value.strip().lower() if isinstance(value, str) else value


def _address(value: str) -> str:
    if not _EMAIL.fullmatch(value):
        raise ValueError("must be an e-mail address such as name@example.com")
    return value


Email = Annotated[
    str,
    BeforeValidator(_normalised),
    Field(max_length=EMAIL_LIMIT_CHARS),
    AfterValidator(_address),
]


class AccountRequest(BaseModel):
    """The body of register and login: an e-mail address and a password."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    email: Email
    password: str = Field(min_length=1, max_length=PASSWORD_LIMIT_CHARS, repr=False)


class RefreshRequest(BaseModel):
    """The body of refresh and logout: a refresh token."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    refresh_token: str = Field(min_length=1, max_length=REFRESH_TOKEN_LIMIT_CHARS, repr=False)


class PasswordChange(BaseModel):
    """The body of a password change."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    current_password: str = Field(min_length=1, max_length=PASSWORD_LIMIT_CHARS, repr=False)
    new_password: str = Field(min_length=1, max_length=PASSWORD_LIMIT_CHARS, repr=False)


class User(BaseModel):
    """A user, as the API shows them. `created_at` is in UTC."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    email: str
    role: Role
    created_at: datetime


class AccessToken(BaseModel):
    """A signed access token that is valid for `expires_in` seconds."""

    token: str = Field(repr=False)
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - RFC 6750's name
    expires_in: int


class Session(AccessToken):
    """An access token, and the refresh token that is good for one exchange against the next."""

    refresh_token: str = Field(repr=False)
