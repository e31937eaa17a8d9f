"""The Bruno collection asks only for what the API's document has, in the form that it has."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from openapi_schema_validator import OAS31Validator

from docs.openapi import catalogue
from gateway.documents import DIRECTORY

COLLECTION = Path(__file__).parents[3] / "docs" / "bruno"
DOCUMENT: dict[str, Any] = json.loads((DIRECTORY / "openapi.json").read_text())
METHODS = ("get", "post", "patch", "put", "delete")
NOT_IN_THE_FLOW = {"get_docs_page", "get_docs_file"}
FILES = sorted(
    path
    for path in COLLECTION.glob("*/*.bru")
    if path.name != "folder.bru" and path.parent.name != "environments"
)
VALUES = {
    "booking_id": catalogue.BOOKING_ID,
    "booking_key": "booking-1",
    "date": "2030-07-20T21:00:00.000Z",
    "email": "ada@example.com",
    "event_id": catalogue.EVENT_ID,
    "event_key": "event-1",
    "event_tag": '"1.100"',
    "password": "correct horse",
    "refresh_token": catalogue.REFRESH_TOKEN,
    "url": "http://localhost:3000",
}


@dataclass(frozen=True)
class Request:
    """A request of the collection, its variables filled in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str
    auth: str


def _blocks(text: str) -> dict[str, str]:
    """Return the blocks of a .bru file: name → content."""
    return dict(re.findall(r"^([\w:-]+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))


def _pairs(block: str) -> dict[str, str]:
    return dict(line.strip().split(": ", 1) for line in block.splitlines() if line.strip())


def _read(path: Path) -> Request:
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: VALUES[found[1]], path.read_text())
    blocks = _blocks(text)
    (method,) = [name for name in blocks if name in METHODS]
    line = _pairs(blocks[method])
    address = urlsplit(line["url"])
    return Request(
        method,
        address.path,
        dict(parse_qsl(address.query)),
        _pairs(blocks.get("headers", "")),
        blocks.get("body:json", ""),
        line["auth"],
    )


def _operation(request: Request) -> dict[str, Any]:
    """Return the operation that serves `request`; exact paths come before templates."""
    for path in sorted(DOCUMENT["paths"], key=lambda path: "{" in path):
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))
        if re.fullmatch(pattern, request.path) and request.method in DOCUMENT["paths"][path]:
            operation: dict[str, Any] = DOCUMENT["paths"][path][request.method]
            return operation
    raise AssertionError(f"{request.method} {request.path} is not in the API's document")


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_request_is_one_that_the_document_has(path: Path) -> None:
    request = _read(path)
    operation = _operation(request)

    known = {(p["in"], p["name"]) for p in operation["parameters"]}
    assert {("query", name) for name in request.query} <= known
    assert {("header", name) for name in request.headers} <= known
    assert (request.auth == "inherit") == bool(operation["security"])
    if "requestBody" in operation:
        reference = operation["requestBody"]["content"]["application/json"]["schema"]
        schema = DOCUMENT | reference
        assert not [e.message for e in OAS31Validator(schema).iter_errors(json.loads(request.body))]
    else:
        assert not request.body


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_request_expects_an_answer_that_the_document_has(path: Path) -> None:
    expected = re.search(r"getStatus\(\)\)\.to\.equal\((\d+)\)", path.read_text())

    assert expected is not None
    assert expected[1] in _operation(_read(path))["responses"]


def test_the_flow_uses_every_operation() -> None:
    used = {_operation(_read(path))["operationId"] for path in FILES}
    every = {
        o["operationId"] for by_method in DOCUMENT["paths"].values() for o in by_method.values()
    }

    assert used == every - NOT_IN_THE_FLOW


def test_every_variable_is_set_before_it_is_used() -> None:
    environment = _pairs(_blocks((COLLECTION / "environments/local.bru").read_text())["vars"])
    known = set(environment)

    def order(path: Path) -> tuple[int, int]:
        folder = _blocks((path.parent / "folder.bru").read_text())
        return int(_pairs(folder["meta"])["seq"]), int(
            _pairs(_blocks(path.read_text())["meta"])["seq"]
        )

    for path in sorted(FILES, key=order):
        blocks = _blocks(path.read_text())
        known |= set(re.findall(r'setVar\("(\w+)"', blocks.get("script:pre-request", "")))
        used = set(re.findall(r"\{\{(\w+)\}\}", path.read_text()))
        assert used <= known, f"{path.name} uses {sorted(used - known)}"
        known |= set(re.findall(r'setVar\("(\w+)"', blocks.get("script:post-response", "")))
    assert len({order(path) for path in FILES}) == len(FILES)
