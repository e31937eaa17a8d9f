"""The Lambda entry point: settings are checked at cold start, clients are made when needed."""

from functools import partial
from uuid import uuid4

from pydantic import BaseModel

from gateway.logic import Bookings
from gateway.routes import build_app
from gateway.ticket_keys import PublishedKeys
from gateway.tickets import Tickets
from ticketra.auth import AccessPolicy
from ticketra.booking_client import BookingClient
from ticketra.http import lambda_handler
from ticketra.secrets import parameter, secret_string
from ticketra.settings import load_settings
from ticketra.tokens import TokenVerifier

BOOKING_DEADLINE_S = 5.0


class Settings(BaseModel):
    """What the function needs from its environment; `*_secret` are names of secrets."""

    access_policy: AccessPolicy
    booking_endpoint: str
    booking_caller_secret: str
    token_jwks_parameter: str
    token_issuer: str
    token_audience: str
    tickets_jwks_parameter: str


_settings = load_settings(Settings)


def _new_key() -> str:
    return str(uuid4())


_booking = BookingClient(
    _settings.booking_endpoint,
    caller="gateway",
    load_credential=partial(secret_string, _settings.booking_caller_secret),
    deadline_s=BOOKING_DEADLINE_S,
)
_bookings = Bookings(_booking, policy=_settings.access_policy, new_key=_new_key)
_tickets = Tickets(_booking, policy=_settings.access_policy)
_ticket_keys = PublishedKeys(partial(parameter, _settings.tickets_jwks_parameter))
_verifier = TokenVerifier(
    partial(parameter, _settings.token_jwks_parameter),
    issuer=_settings.token_issuer,
    audience=_settings.token_audience,
)

handler = lambda_handler(
    build_app(_bookings, _tickets, _ticket_keys, verifier=_verifier, policy=_settings.access_policy)
)
