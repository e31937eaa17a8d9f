"""10,000 bodies that no honest client sends: each gets a documented problem, and none a 5xx.

They go through the functions' Lambda entry points, to every operation of the API's document that
takes a body. They are drawn from the example of each, so that a new operation is tested too.
"""

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from gateway.documents import DIRECTORY
from gateway.logic import Bookings
from gateway.routes import build_app
from gateway.ticket_keys import PublishedKeys
from gateway.tickets import Tickets
from tests.unit.common.support import (
    CREDENTIAL,
    FakeBooking,
    LambdaContext,
    SigningKey,
    api_event,
)
from tests.unit.event.fakes import EventFunction
from tests.unit.identity.fakes import Identity
from ticketra.booking_client import BookingClient
from ticketra.http import BODY_LIMIT_BYTES, PROBLEM_JSON, lambda_handler

SEED = 20_300_720
BODIES = 10_000
HUGE = "x" * 1_000_000
SHARE_OF_HUGE = 0.005
NASTY: list[Any] = [
    None, True, False, 0, -1, 1.5, 2**31, 2**63, -(2**70), 10**400, float("nan"), float("inf"),
    "", " ", "0", "null", "\u0000", "a\u0000b", "\ud800", "😀" * 60, "\u202egnp", "\ufeff",
    "é" * 300, "x" * 5_000, [], [[]], [None] * 500, {}, {"": ""}, {"\u0000": 1},
    {"__proto__": {"a": 1}}, {"$gt": ""}, {"$ne": None}, {"$where": "sleep(1000)"},
    {"$regex": "(a+)+$"}, {"$oid": "0" * 24}, "' OR '1'='1", "'; DROP TABLE users; --",
    "1) UNION SELECT password_hash FROM users",
    "%s", "%(id)s", "{0}", "${jndi:ldap://x}", "../../etc/passwd", "<script>alert(1)</script>",
    "2030-02-30T25:61:61Z", "9999-12-31T23:59:59-23:59", "0000-00-00T00:00:00Z", "1e309", "NaN",
]  # fmt: skip
NO_JSON = [
    "", " ", "{", "}", '{"a": 1,}', "\ufeff{}", "nul", "'a'", "NaN", "{}{}", '{"a": "\ud800"}',
    "[" * 20_000, '{"a":' * 10_000, "[" * 20_000 + "]" * 20_000, "9" * 5_000, "\u0000", "a=b&c=d",
]  # fmt: skip

DOCUMENT = json.loads((DIRECTORY / "openapi.json").read_text())

Send = Callable[[str], dict[str, Any]]


class Target(NamedTuple):
    """An operation: how to send it a body, an example of one, and status → codes of its answers."""

    send: Send
    example: dict[str, Any]
    answers: dict[int, list[str]]


class InProcess(BookingClient):
    """Calls a FakeBooking without a connection: what comes in is tested, not gRPC."""

    def __init__(self) -> None:
        super().__init__("", caller="gateway", load_credential=lambda: CREDENTIAL, deadline_s=1)
        self._fake = FakeBooking()

    def call(self, method: Any, request: Any, **_: Any) -> Any:
        return method(self)(request)

    def CreateBooking(self, request: Any) -> Any:  # noqa: N802 - a method of the stub
        request.SerializeToString()
        self._fake._arrive = lambda *_: None  # type: ignore[method-assign]
        return self._fake.CreateBooking(request, None)


def _gateway(key: SigningKey) -> Any:
    keys = iter(range(BODIES))
    client = InProcess()
    bookings = Bookings(client, policy="strict", new_key=lambda: f"key-{next(keys)}")
    tickets = Tickets(client, policy="strict")
    published = PublishedKeys(lambda: key.jwks)
    return build_app(bookings, tickets, published, verifier=key.verifier(), policy="strict")


def _answers(operation: dict[str, Any]) -> dict[int, list[str]]:
    return {
        int(status): list(_component(answer)["content"][PROBLEM_JSON]["examples"])
        if int(status) >= 400
        else []
        for status, answer in operation["responses"].items()
        if status.isdigit()
    }


def _component(answer: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in answer:
        return answer
    found: dict[str, Any] = DOCUMENT["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    return found


def _targets() -> dict[str, Target]:
    """Return each operation that takes a body, by its id."""
    identity, events, key = Identity(), EventFunction(), SigningKey()
    handlers = {
        "Identity": (lambda_handler(identity.app), identity.key),
        "Events": (lambda_handler(events.app), events.key),
        "Bookings": (lambda_handler(_gateway(key)), key),
    }
    event_id = events.create().json()["id"]
    targets: dict[str, Target] = {}
    for path, operations in DOCUMENT["paths"].items():
        for method, operation in operations.items():
            if "requestBody" not in operation:
                continue
            (tag,) = operation["tags"]
            handler, signing_key = handlers[tag]
            headers = signing_key.bearer() | {"If-Match": "*"}
            at = path.replace("{event_id}", event_id)

            def send(
                body: str,
                handler: Any = handler,
                method: str = method.upper(),
                path: str = at,
                headers: dict[str, str] = headers,
            ) -> dict[str, Any]:
                answer: dict[str, Any] = handler(
                    api_event(method, path, body, headers=headers), LambdaContext()
                )
                return answer

            (media,) = operation["requestBody"]["content"].values()
            targets[operation["operationId"]] = Target(send, media["example"], _answers(operation))
    return targets


def _body(draw: random.Random, example: dict[str, Any]) -> str:
    kind = draw.random()
    if kind < SHARE_OF_HUGE:
        return json.dumps(example | {draw.choice([*example, "more"]): HUGE})
    if kind < 0.1:
        return draw.choice(NO_JSON)
    if kind < 0.2:
        return json.dumps(_nested(draw, draw.choice(NASTY)))
    spoilt = dict(example)
    for _ in range(draw.randint(1, 3)):
        name = draw.choice([*example, "more", "$where", "__proto__", "\u0000"])
        if draw.random() < 0.15:
            spoilt.pop(name, None)
        elif isinstance(spoilt.get(name), dict) and draw.random() < 0.7:
            spoilt[name] = spoilt[name] | {draw.choice([*spoilt[name], "x"]): draw.choice(NASTY)}
        else:
            spoilt[name] = _nested(draw, draw.choice(NASTY))
    return json.dumps(spoilt)


def _nested(draw: random.Random, value: Any) -> Any:
    for _ in range(draw.choice([0, 0, 0, 1, 2, 50])):
        value = [value] if draw.random() < 0.5 else {draw.choice(["a", "$and", "price"]): value}
    return value


def test_ten_thousand_bodies_get_problems_and_never_a_failure() -> None:
    draw = random.Random(SEED)
    targets = _targets()
    names = sorted(targets)
    statuses: Counter[int] = Counter()
    refused: Counter[str] = Counter()
    for number in range(BODIES):
        name = names[number % len(names)]
        target = targets[name]
        body = _body(draw, target.example)

        answer = target.send(body)

        status = answer["statusCode"]
        shown = f"seed {SEED}, body {number} of {name}: {body[:300]!r} got {status}"
        assert status < 500, shown
        assert status in target.answers, shown
        statuses[status] += 1
        if status >= 400:
            refused[name] += 1
            assert answer["headers"]["content-type"] == PROBLEM_JSON, shown
            problem = json.loads(answer["body"])
            assert problem["status"] == status, shown
            assert problem["code"] in target.answers[status], f"{shown} {problem['code']}"
            assert len(answer["body"]) < BODY_LIMIT_BYTES, "a problem repeats what was sent"
    assert {400, 413, 422} <= statuses.keys()
    assert set(refused) == set(names)
    assert refused.total() > 0.9 * BODIES, f"too many bodies were right: {statuses}"
