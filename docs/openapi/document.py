"""The API's document, OpenAPI 3.1: what FastAPI says of each function, merged and completed.

A route's own refusals and headers are declared beside it (`ticketra.http.problems`, `headers`).
What any route may answer is added here, and so are the examples. Whatever lacks a description or
an example, or is described and not used, is an error.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from docs.openapi.components import Components, IncompleteError, Json
from event.routes import router as events
from gateway.documents import router as documents
from gateway.routes import router as bookings
from gateway.ticket_routes import router as tickets
from identity.routes import router as identity
from ticketra.auth import Caller
from ticketra.http import create_app

TAGS: tuple[tuple[str, str, APIRouter], ...] = (
    ("Identity", "Accounts and tokens.", identity),
    ("Events", "What tickets are sold for.", events),
    ("Bookings", "Tickets held and sold.", bookings),
    ("Tickets", "What a door checks.", tickets),
    ("Documentation", "This document.", documents),
)
INFO = {
    "title": "Ticketra API",
    "version": "1.0.0",
    "description": (
        "Sells tickets, and never one twice.\n\n"
        "Errors are `application/problem+json` (RFC 9457): `code` is stable, `detail` says what to "
        "do, and `request_id` finds the request in our logs.\n\n"
        "A deployment has one access policy. Under `strict`, the default, creating events and "
        "booking need an access token, and another person's booking is not found. Under `open`, "
        "which is for walk-throughs, they need none, a booking may be made for any `user_id`, and "
        "a password may be short."
    ),
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}
SERVERS = [
    {"url": "..", "description": "Where this document was loaded from"},
    {"url": "http://localhost:3000", "description": "The local cloud"},
]
# What any route may answer; `_undeclared` adds to it by what a route takes.
_ANYWHERE = {
    "400": ["malformed_request", "bad_request"],
    "429": ["too_many_requests"],
    "431": ["headers_too_large"],
    "503": ["temporarily_unavailable"],
    "5XX": ["internal_error", "timeout"],
}
_CALL_BOOKING = {"Events", "Bookings", "Tickets"}
_HAVE_NO_BODY = {204, 304}
_CALLER: Any = Caller
_TOKEN_CHECK = _CALLER.__metadata__[0].dependency


def build() -> Json:
    """Return the document.

    Raises:
        IncompleteError: something is not described, or described and not there.

    """
    paths: Json = {}
    components = Components()
    for tag, _, router in TAGS:
        described = create_app(tag, router).openapi()
        components.add_schemas(described.get("components", {}).get("schemas", {}))
        for route, method in _operations(router):
            operation = described["paths"][route.path][method]
            _complete(operation, route, tag, components)
            paths.setdefault(route.path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": INFO,
        "servers": SERVERS,
        "tags": [{"name": name, "description": text} for name, text, _ in TAGS],
        "paths": paths,
        "components": components.as_json(),
    }


def _operations(router: APIRouter) -> Iterator[tuple[APIRoute, str]]:
    for route in router.routes:
        assert isinstance(route, APIRoute)
        for method in sorted(route.methods or ()):
            yield route, method.lower()


def _complete(operation: Json, route: APIRoute, tag: str, components: Components) -> None:
    operation["tags"] = [tag]
    operation["summary"] = route.name.replace("_", " ").capitalize()
    operation["security"] = [{"bearer": []}] if _needs_token(route.dependant) else []
    _complete_parameters(operation, components)
    if "requestBody" in operation:
        _add_examples(operation["requestBody"]["content"], route.name, components)
    declared = operation["responses"]
    undeclared = _undeclared(operation, tag)
    refused = {status for status in declared if int(status) >= 400} | undeclared.keys()
    operation["responses"] = {
        status: _answer(int(status), declared[status], route.name, components)
        for status in sorted(declared.keys() - refused)
    }
    for status in sorted(refused):
        own = declared.get(status, {}).get("x-codes", [])
        codes = [*own, *undeclared.get(status, [])]
        problem = components.problem(status, codes, shared=not own)
        operation["responses"][status] = problem


def _needs_token(dependant: Dependant) -> bool:
    return any(
        inner.call is _TOKEN_CHECK or _needs_token(inner) for inner in dependant.dependencies
    )


def _undeclared(operation: Json, tag: str) -> dict[str, list[str]]:
    """Return what may be refused without being declared: status → codes."""
    codes = {status: list(listed) for status, listed in _ANYWHERE.items()}
    if operation["security"]:
        codes["401"] = ["authentication_required", "invalid_token", "token_expired"]
    if "requestBody" in operation:
        codes["400"].insert(0, "malformed_json")
        codes["413"] = ["body_too_large"]
    if "422" in operation["responses"]:
        codes["422"] = ["validation_failed"]
    if tag in _CALL_BOOKING:
        codes["503"] += ["booking_unavailable", "unavailable"]
    return codes


def _complete_parameters(operation: Json, components: Components) -> None:
    for parameter in operation.get("parameters", []):
        entry = components.look_up("PARAMETERS", parameter["name"])
        text = parameter.get("description") or entry.description
        if not text:
            raise IncompleteError(f"the parameter {parameter['name']!r} has no description")
        parameter["description"] = text[0].upper() + text[1:]
        if parameter["required"]:
            parameter["example"] = entry.example
        else:  # as an example, the page would send it unless told not to
            text = parameter["description"].removesuffix(".")
            parameter["description"] = f"{text}, such as `{entry.example}`."
        parameter["schema"] = _without_null(parameter["schema"])
        if parameter["in"] == "header":
            parameter["name"] = parameter["name"].title()
    operation.setdefault("parameters", []).append(
        {
            "name": "X-Request-Id",
            "in": "header",
            "required": False,
            "description": (
                "Your own id of this request, for our logs: 1 to 64 letters, digits, dots, dashes "
                "or underscores. Otherwise it gets another."
            ),
            "schema": {"type": "string"},
        }
    )


def _without_null(schema: Json) -> Json:
    """Return the schema of a parameter, which can be absent but not null."""
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    only: Json = choices[0]
    return only | {name: value for name, value in schema.items() if name != "anyOf"}


def _answer(status: int, answer: Json, operation_id: str, components: Components) -> Json:
    names = ["X-Request-Id", *answer.pop("x-headers", [])]
    content = answer.pop("content", {})
    if status in _HAVE_NO_BODY:
        content = {}
    elif any(media.get("schema") for media in content.values()):
        _add_examples(content, operation_id, components)
    else:
        content = components.look_up("OTHER_ANSWERS", operation_id)
    answer["headers"] = components.headers(names)
    return answer | ({"content": content} if content else {})


def _add_examples(content: Json, operation_id: str, components: Components) -> None:
    for media in content.values():
        schema = media["schema"]
        is_list = schema.get("type") == "array"
        reference = (schema["items"] if is_list else schema).get("$ref")
        if reference is None:
            raise IncompleteError(f"{operation_id}: a body has no model")
        example = components.look_up("BODIES", reference.rpartition("/")[2])
        media["example"] = [example] if is_list else example
