"""The Lambda entry point: settings are checked at cold start, clients are made when needed."""

from datetime import UTC, datetime
from functools import partial

from bson import ObjectId
from pydantic import BaseModel
from pymongo import MongoClient

from event.cache import CachedEventStore, RedisCache
from event.changes import Changes
from event.logic import Events
from event.routes import build_app
from event.sales import SaleClient
from event.store import Document, MongoEventStore, connect
from ticketra.auth import AccessPolicy
from ticketra.booking_client import BookingClient
from ticketra.http import lambda_handler
from ticketra.secrets import credentials, parameter, secret_string
from ticketra.settings import load_settings
from ticketra.tokens import TokenVerifier

BOOKING_DEADLINE_S = 3.0


class Settings(BaseModel):
    """What the function needs from its environment; `*_secret` are names of secrets."""

    stage: str
    access_policy: AccessPolicy
    mongodb_url: str
    mongodb_database: str
    mongodb_secret: str
    redis_url: str
    redis_secret: str
    booking_endpoint: str
    booking_caller_secret: str
    token_jwks_parameter: str
    token_issuer: str
    token_audience: str


_settings = load_settings(Settings)


def _now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return str(ObjectId())


def _open_client() -> MongoClient[Document]:
    return connect(_settings.mongodb_url, credentials(_settings.mongodb_secret))


_booking = BookingClient(
    _settings.booking_endpoint,
    caller="event",
    load_credential=partial(secret_string, _settings.booking_caller_secret),
    deadline_s=BOOKING_DEADLINE_S,
)
_sales = SaleClient(_booking)
_store = CachedEventStore(
    MongoEventStore(_open_client, _settings.mongodb_database),
    RedisCache(
        _settings.redis_url,
        partial(credentials, _settings.redis_secret),
        namespace=f"{_settings.stage}:events",
        new_stamp=_new_id,
    ),
)
_events = Events(_store, _sales, policy=_settings.access_policy, clock=_now, new_id=_new_id)
_changes = Changes(_store, _sales, policy=_settings.access_policy, clock=_now)
_verifier = TokenVerifier(
    partial(parameter, _settings.token_jwks_parameter),
    issuer=_settings.token_issuer,
    audience=_settings.token_audience,
)

handler = lambda_handler(
    build_app(_events, _changes, verifier=_verifier, policy=_settings.access_policy)
)
