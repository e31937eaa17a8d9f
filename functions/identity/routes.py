"""Identity's HTTP routes: parse, call, answer."""

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request, Response

from identity.logic import Accounts
from identity.models import AccessToken, AccountRequest, User
from ticketra.auth import AccessPolicy, Caller, required
from ticketra.http import create_app
from ticketra.tokens import TokenVerifier

JWKS_MAX_AGE_S = 300

router = APIRouter(prefix="/api/auth")


def build_app(accounts: Accounts, *, verifier: TokenVerifier, policy: AccessPolicy) -> FastAPI:
    """Return the function's app."""
    return create_app("identity", router, accounts=accounts, verifier=verifier, policy=policy)


async def _accounts(request: Request) -> Accounts:
    accounts: Accounts = request.app.state.accounts
    return accounts


WithAccounts = Annotated[Accounts, Depends(_accounts)]


@router.post("/register", status_code=201)
def register(body: AccountRequest, accounts: WithAccounts) -> User:
    """Make an account."""
    return accounts.register(body.email, body.password)


@router.post("/login")
def log_in(body: AccountRequest, accounts: WithAccounts, response: Response) -> AccessToken:
    """Get an access token for an e-mail address and a password."""
    response.headers["Cache-Control"] = "no-store"
    return accounts.log_in(body.email, body.password)


@router.get("/me")
def me(caller: Caller, accounts: WithAccounts) -> User:
    """Who the access token speaks for."""
    return accounts.me(required(caller))


@router.get("/.well-known/jwks.json")
def jwks(accounts: WithAccounts) -> Response:
    """Return the public keys that verify access tokens."""
    return Response(
        accounts.jwks(),
        media_type="application/json",
        headers={"Cache-Control": f"public, max-age={JWKS_MAX_AGE_S}"},
    )
