"""Who may call: the access policy of a deployment and the bearer token of a request."""

from typing import Annotated, Literal

from fastapi import Depends, Request

from ticketra.errors import Unauthenticated
from ticketra.tokens import Principal, TokenVerifier

AccessPolicy = Literal["strict", "open"]


def bearer_token(authorization: str | None) -> str | None:
    """Return the token of an Authorization header, or None if there is no such header.

    Raises:
        Unauthenticated: the header is there but holds no bearer token.

    """
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("invalid_token", "The Authorization header holds no bearer token.")
    return token.strip()


def principal_of(authorization: str | None, verifier: TokenVerifier) -> Principal | None:
    """Return whom an Authorization header speaks for; None for an anonymous caller.

    Raises:
        Unauthenticated: a token was sent that is not valid.

    """
    token = bearer_token(authorization)
    return None if token is None else verifier.verify(token)


def required(principal: Principal | None) -> Principal:
    """Return `principal`, who must be known here.

    Raises:
        Unauthenticated: the caller is anonymous.

    """
    if principal is None:
        raise Unauthenticated(
            "authentication_required", "Send an access token: Authorization: Bearer <token>."
        )
    return principal


async def _caller(request: Request) -> Principal | None:
    verifier: TokenVerifier = request.app.state.verifier
    policy: AccessPolicy = request.app.state.policy
    principal = principal_of(request.headers.get("authorization"), verifier)
    return required(principal) if policy == "strict" else principal


Caller = Annotated[Principal | None, Depends(_caller)]
"""A route's caller; None if anonymous, which the open policy alone lets through.

It is asked for before the body is checked: who may not call learns nothing about bodies. A token
that is sent must be valid under every policy.
"""
