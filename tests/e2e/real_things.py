"""What generated requests cannot guess: ids, tokens, passwords and cursors that exist."""

import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from schemathesis import Case, Response

from tests.e2e.cloud import Cloud

TICKETS = 10_000


class RealThings:
    """Puts one user's own things in the place of made-up ones.

    Every operation gets its own events and bookings: what one of them changes or cancels is no
    longer what another one needs.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.user = cloud.register()
        self._made: dict[tuple[str, str], str] = {}
        self._password = self.user.password
        self._refresh_token = self.user.refresh_token

    def put_into(self, case: Case[Any]) -> None:
        """Replace what `case` made up, where it is there; all else stays as it was generated."""
        label = case.operation.label
        given: dict[str, Callable[[], str]] = {
            "event_id": lambda: self._event(label),
            "booking_id": lambda: self._booking(label),
            "number": lambda: "1",
            "user_id": lambda: self.user.id,
            "refresh_token": lambda: self._refresh_token,
            "current_password": lambda: self._password,
        }
        if label == "POST /api/auth/login":
            given |= {"email": lambda: self.user.email, "password": lambda: self._password}
        if label == "POST /api/auth/register":
            given["email"] = lambda: f"user.{secrets.token_hex(6)}@example.com"
        for place in (case.path_parameters, case.query, case.body):
            if isinstance(place, dict):
                place.update({name: make() for name, make in given.items() if name in place})
        if "If-Match" in case.headers:
            case.headers["If-Match"] = "*"
        if "cursor" in case.query and "page" not in case.query:
            case.query.pop("sort", None)
            of_tickets = label.endswith("/tickets")
            case.query["cursor"] = "1" if of_tickets else self._cursor(case.path)

    def learn(self, case: Case[Any], response: Response) -> None:
        """Keep what a successful answer replaced."""
        match (case.operation.label, response.status_code):
            case ("POST /api/auth/refresh", 200):
                self._refresh_token = str(response.json()["refresh_token"])
            case ("POST /api/auth/password", 204):
                assert isinstance(case.body, dict)
                self._password = str(case.body["new_password"])

    def _event(self, label: str) -> str:
        return self._once(
            label, "event", lambda: self._cloud.create_event(self.user, total_tickets=TICKETS)
        )

    def _booking(self, label: str) -> str:
        def make() -> str:
            booking_id = self._book(self._event(label))
            if "/tickets" in label:
                self._cloud.settled(self.user, booking_id)
            return booking_id

        return self._once(label, "booking", make)

    def _book(self, event_id: str) -> str:
        answer = self._cloud.book(self.user, event_id, 1)
        assert answer.status_code == 201, answer.text
        booking_id: str = answer.json()["id"]
        return booking_id

    def _cursor(self, path: str) -> str:
        """Return the cursor after the first of at least two things."""

        def after_the_first() -> str:
            event_id = self._event("cursor")
            for _ in range(2):
                self._book(event_id)
            self._cloud.create_event(self.user, total_tickets=TICKETS)
            answer = self._cloud.api.get(
                path,
                params={"limit": 1, "cursor": ""} if path.endswith("events") else {"limit": 1},
                headers=self.user.headers,
            )
            return _next_cursor(answer)

        return self._once(path, "cursor", after_the_first)

    def _once(self, label: str, kind: str, make: Callable[[], str]) -> str:
        if (label, kind) not in self._made:
            self._made[label, kind] = make()
        return self._made[label, kind]


def _next_cursor(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    [cursor] = parse_qs(urlsplit(answer.links["next"]["url"]).query)["cursor"]
    return cursor
