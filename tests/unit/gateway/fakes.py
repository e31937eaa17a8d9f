"""The gateway function in front of a booking service that a test runs."""

from fastapi.testclient import TestClient

from gateway.logic import Bookings
from gateway.routes import build_app
from gateway.ticket_keys import PublishedKeys
from gateway.tickets import Tickets
from tests.unit.common.support import CREDENTIAL, SigningKey
from ticketra.auth import AccessPolicy
from ticketra.booking_client import BookingClient


class GatewayFunction:
    """The whole function, reached through HTTP; keys that it mints count up."""

    def __init__(self, endpoint: str, policy: AccessPolicy) -> None:
        self.key = SigningKey()
        self.client = BookingClient(
            endpoint, caller="gateway", load_credential=lambda: CREDENTIAL, deadline_s=5.0
        )
        self._minted = 0
        bookings = Bookings(self.client, policy=policy, new_key=self._new_key)
        tickets = Tickets(self.client, policy=policy)
        self.ticket_key = SigningKey("ticket-key-1")
        keys = PublishedKeys(lambda: self.ticket_key.jwks)
        verifier = self.key.verifier()
        self.app = build_app(bookings, tickets, keys, verifier=verifier, policy=policy)
        self.http = TestClient(self.app)

    def _new_key(self) -> str:
        self._minted += 1
        return f"minted-{self._minted}"
