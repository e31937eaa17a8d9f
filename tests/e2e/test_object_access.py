"""Who may do what with one person's things: every route that names a thing, every kind of caller.

A refresh token is the right to its session by itself, whoever sends it: a caller's access token
changes nothing about that. Events are public to read; there it does not matter whose token has
expired.
"""

import json
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from identity.issuer import KeyRing
from supervisor.admin import set_admin
from supervisor.secrets import read
from tests.e2e.cloud import Cloud, User

TABLE = """
route                                     owner  other  admin  anonymous  expired
GET    /api/events/{event_id}             200    200    200    200        200
GET    /api/events/{event_id}/calendar.ics 200   200    200    200        200
PATCH  /api/events/{event_id}             200    403    200    401        401
DELETE /api/events/{event_id}             204    403    204    401        401
POST   /api/bookings                      201    422    422    401        401
GET    /api/bookings                      200    422    200    401        401
GET    /api/bookings/{booking_id}         200    404    200    401        401
POST   /api/bookings/{booking_id}/cancel  200    404    404    401        401
GET    /api/bookings/{booking_id}/tickets 200  404    200    401        401
GET    /api/bookings/{booking_id}/tickets/{number}/qr.svg 200 404 200 401 401
GET    /api/bookings/{booking_id}/tickets/{number}/qr.png 200 404 200 401 401
POST   /api/auth/password                 204    401    401    401        401
POST   /api/auth/refresh                  200    200    200    200        200
POST   /api/auth/logout                   204    204    204    204        204
GET    /api/docs/{name}                   200    200    200    200        200
"""
NAMES_A_THING = {"event_id", "booking_id", "user_id", "refresh_token", "current_password", "name"}
OF_EACH_REQUEST = {"date", "x-amzn-requestid", "x-amzn-trace-id", "x-amz-apigw-id"}
"""headers that API Gateway sets"""
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "openapi" / "openapi.json"
NEW_TITLE = "Moved indoors"


def _cells() -> list[tuple[str, str, int]]:
    header, *rows = (line.split() for line in TABLE.strip().splitlines())
    return [
        (f"{method} {path}", kind, int(status))
        for method, path, *statuses in rows
        for kind, status in zip(header[1:], statuses, strict=True)
    ]


@dataclass(frozen=True)
class Things:
    """What a request may name, as it names it."""

    event_id: str
    booking_id: str
    user_id: str
    refresh_token: str
    current_password: str
    name: str = "page.js"
    number: int = 1

    def request(self, route: str) -> dict[str, Any]:
        """Return the arguments of the client for a request about these."""
        method, path = route.split()
        asked: dict[str, Any] = {"method": method, "url": path.format_map(vars(self))}
        match route:
            case "PATCH /api/events/{event_id}":
                asked |= {"json": {"title": NEW_TITLE}, "headers": {"If-Match": "*"}}
            case "POST /api/bookings":
                asked["json"] = {"event_id": self.event_id, "ticket_count": 1}
                asked["json"]["user_id"] = self.user_id
            case "GET /api/bookings":
                asked["params"] = {"user_id": self.user_id}
            case "POST /api/auth/refresh" | "POST /api/auth/logout":
                asked["json"] = {"refresh_token": self.refresh_token}
            case "POST /api/auth/password":
                asked["json"] = {
                    "current_password": self.current_password,
                    "new_password": self.current_password,
                }
        return asked


class People:
    """The owner of all things, and who else may call."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.owner, self.other, admin = (cloud.register() for _ in range(3))
        set_admin(cloud.settings, admin.email, revoke=False)
        self.admin = cloud.log_in(admin.id, email=admin.email, password=admin.password)

    def things(self, route: str) -> Things:
        """Return new things of the owner; where the route takes one, a session of its own."""
        owner = self.owner
        if route in {"POST /api/auth/refresh", "POST /api/auth/logout"}:
            owner = self._cloud.log_in(owner.id, email=owner.email, password=owner.password)
        event_id = self._cloud.create_event(owner, total_tickets=10)
        booking_id = self._cloud.book(owner, event_id, 1).json()["id"]
        if "/tickets" in route:
            self._cloud.settled(owner, booking_id)
        return Things(event_id, booking_id, owner.id, owner.refresh_token, owner.password)

    def headers(self, kind: str) -> dict[str, str]:
        """Return what a caller of this kind sends to say who they are."""
        match kind:
            case "anonymous":
                return {}
            case "expired":
                return {"Authorization": f"Bearer {self._expired(self.owner)}"}
        user: User = getattr(self, kind)
        return user.headers

    def _expired(self, user: User) -> str:
        """Return the user's token as it was an hour ago, with a signature that is right."""
        claims = jwt.decode(user.token, options={"verify_signature": False})
        hour = int(timedelta(hours=1).total_seconds())
        past = {name: claims[name] - hour for name in ("iat", "nbf", "exp")}
        ring = KeyRing.from_secret(json.dumps(dict(read(self._cloud.settings).token_keys)))
        return ring.sign(claims | past, datetime.now(UTC))


@pytest.fixture(scope="module")
def people(cloud: Cloud) -> People:
    return People(cloud)


@pytest.mark.parametrize(("route", "kind", "status"), _cells())
def test_a_caller_may_do_what_the_table_says(
    cloud: Cloud, people: People, route: str, kind: str, status: int
) -> None:
    things = people.things(route)
    before = _seen_by_owner(cloud, people.owner, things)

    answer = _ask(cloud, people, kind, things.request(route))

    assert answer.status_code == status, answer.text
    if answer.is_success:
        return
    assert _seen_by_owner(cloud, people.owner, things) == before
    assert _leaks(answer, people.owner, things) == []
    if status != 403:  # that an event exists is no secret
        unknown = _ask(cloud, people, kind, _made_up(things).request(route))
        assert (unknown.status_code, unknown.content) == (answer.status_code, answer.content)
        assert _comparable(unknown) == _comparable(answer)


def test_the_table_has_every_route_that_names_a_thing() -> None:
    document = json.loads(DOCUMENT.read_text())
    naming = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if _names(document, operation) & NAMES_A_THING or "{" in path
    }

    assert naming == {route for route, _, _ in _cells()}


def _ask(cloud: Cloud, people: People, kind: str, asked: dict[str, Any]) -> httpx.Response:
    """Send a request under an id that is always the same."""
    headers = {**asked.get("headers", {}), **people.headers(kind), "X-Request-Id": "access"}
    return cloud.api.request(**{**asked, "headers": headers})


def _seen_by_owner(cloud: Cloud, owner: User, things: Things) -> object:
    """Return what a refused request must not have changed."""
    event = cloud.api.get(f"/api/events/{things.event_id}").json()
    booking = cloud.booking(owner, things.booking_id)
    [newest] = cloud.api.get("/api/bookings?limit=1", headers=owner.headers).json()
    return event["title"], event["status"], booking["status"] == "CANCELLED", newest["id"]


def _leaks(answer: httpx.Response, owner: User, things: Things) -> list[str]:
    """Return what the answer says of the owner's things."""
    private = [owner.email, things.user_id, things.booking_id, owner.password, owner.refresh_token]
    said = f"{answer.headers} {answer.text}"
    return [each for each in private if each in said]


def _made_up(things: Things) -> Things:
    """Return things that never existed, in the form of those that do."""
    return replace(
        things,
        event_id=secrets.token_hex(12),
        booking_id=_other_digits(things.booking_id),
        user_id=_other_digits(things.user_id),
        refresh_token=things.refresh_token[::-1],
        current_password=secrets.token_urlsafe(12),
    )


def _other_digits(uuid: str) -> str:
    """Return another id of the same time and form."""
    return uuid[:-12] + secrets.token_hex(6)


def _comparable(answer: httpx.Response) -> dict[str, str]:
    return {n: value for n, value in answer.headers.items() if n not in OF_EACH_REQUEST}


def _names(document: dict[str, Any], operation: dict[str, Any]) -> set[str]:
    """Return the names of an operation's parameters and of its body's fields."""
    names = {parameter["name"] for parameter in operation.get("parameters", ())}
    content = operation.get("requestBody", {}).get("content", {})
    for media in content.values():
        schema = media["schema"]
        while "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        names |= set(schema.get("properties", ()))
    return names
