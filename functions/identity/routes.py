"""Identity's HTTP routes: parse, call, answer."""

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request, Response

from identity.issuer import TokenIssuer
from identity.logic import Accounts
from identity.models import AccountRequest, PasswordChange, RefreshRequest, Session, User
from identity.sessions import Sessions
from ticketra.auth import AccessPolicy, Caller, required
from ticketra.http import create_app, headers, problems
from ticketra.tokens import TokenVerifier

JWKS_MAX_AGE_S = 300

router = APIRouter(prefix="/api/auth")


def build_app(
    accounts: Accounts,
    sessions: Sessions,
    issuer: TokenIssuer,
    *,
    verifier: TokenVerifier,
    policy: AccessPolicy,
) -> FastAPI:
    """Return the function's app."""
    return create_app(
        "identity",
        router,
        accounts=accounts,
        sessions=sessions,
        issuer=issuer,
        verifier=verifier,
        policy=policy,
    )


async def _accounts(request: Request) -> Accounts:
    accounts: Accounts = request.app.state.accounts
    return accounts


async def _sessions(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.sessions
    return sessions


async def _issuer(request: Request) -> TokenIssuer:
    issuer: TokenIssuer = request.app.state.issuer
    return issuer


async def _address(request: Request) -> str:
    """Return the client's address as API Gateway saw it, whatever a header says."""
    return "unknown" if request.client is None else request.client.host or "unknown"


WithAccounts = Annotated[Accounts, Depends(_accounts)]
WithSessions = Annotated[Sessions, Depends(_sessions)]
WithIssuer = Annotated[TokenIssuer, Depends(_issuer)]
Address = Annotated[str, Depends(_address)]


@router.post("/register", status_code=201, responses=problems({409: "email_taken"}))
def register(body: AccountRequest, accounts: WithAccounts) -> User:
    """Make an account."""
    return accounts.register(body.email, body.password)


@router.post(
    "/login",
    responses=headers(200, "Cache-Control")
    | problems({401: "invalid_credentials", 429: "too_many_attempts"}),
)
def log_in(
    body: AccountRequest, accounts: WithAccounts, address: Address, response: Response
) -> Session:
    """Get an access token and a refresh token for an e-mail address and a password."""
    response.headers["Cache-Control"] = "no-store"
    return accounts.log_in(body.email, body.password, address)


@router.post(
    "/refresh",
    responses=headers(200, "Cache-Control") | problems({401: "invalid_refresh_token"}),
)
def refresh(body: RefreshRequest, sessions: WithSessions, response: Response) -> Session:
    """Exchange a refresh token, once, for an access token and the next refresh token."""
    response.headers["Cache-Control"] = "no-store"
    return sessions.refresh(body.refresh_token)


@router.post("/logout", status_code=204)
def log_out(body: RefreshRequest, sessions: WithSessions) -> None:
    """End the session of a refresh token; there may be none."""
    sessions.end(body.refresh_token)


@router.post(
    "/password",
    status_code=204,
    responses=problems({401: "invalid_credentials", 429: "too_many_attempts"}),
)
def change_password(
    caller: Caller, body: PasswordChange, accounts: WithAccounts, address: Address
) -> None:
    """Change the caller's password and end all of their sessions."""
    accounts.change_password(required(caller), body.current_password, body.new_password, address)


@router.get("/me")
def me(caller: Caller, accounts: WithAccounts) -> User:
    """Who the access token speaks for."""
    return accounts.me(required(caller))


@router.get("/.well-known/jwks.json", responses=headers(200, "Cache-Control"))
def jwks(issuer: WithIssuer) -> Response:
    """Return the public keys that verify access tokens."""
    return Response(
        issuer.jwks(),
        media_type="application/json",
        headers={"Cache-Control": f"public, max-age={JWKS_MAX_AGE_S}"},
    )
