"""The API's document (OpenAPI 3.1) and the page that shows it; nothing comes from elsewhere.

`openapi.json` is generated from the code of all functions (`make openapi`). The page's renderer is
Swagger UI, whose two files the build of this function adds to its directory.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from ticketra.auth import AccessPolicy
from ticketra.errors import NotFound
from ticketra.http import problems

DIRECTORY = Path(__file__).parent / "static"
MAX_AGE_S = 300
PAGE_FILES = {
    "page.css": "text/css",
    "page.js": "application/javascript",
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "application/javascript",
}
# What the access policy `open` lets anybody do.
OPEN_OPERATIONS = frozenset(
    {
        *("create_event", "create_booking", "list_bookings", "get_booking", "cancel_booking"),
        *("list_tickets", "get_qr_svg", "get_qr_png"),
    }
)
# The page may load from here and talk to here only; Swagger UI sets styles in elements.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_CACHED = {"Cache-Control": f"public, max-age={MAX_AGE_S}", "X-Content-Type-Options": "nosniff"}

ReadFile = Callable[[str], str]

router = APIRouter(prefix="/api")


@cache
def read_file(name: str) -> str:
    """Return the text of one of this function's own files, which never change while it runs."""
    return (DIRECTORY / name).read_text(encoding="utf-8")


def for_policy(document: str, policy: AccessPolicy) -> str:
    """Return the API's document as the access policy has it: under `open`, some need no token."""
    if policy == "strict":
        return document
    described: dict[str, Any] = json.loads(document)
    for operations in described["paths"].values():
        for operation in operations.values():
            if operation["operationId"] in OPEN_OPERATIONS:
                operation["security"].append({})
    return json.dumps(described)


async def _read(request: Request) -> ReadFile:
    read: ReadFile = request.app.state.read_file
    return read


async def _policy(request: Request) -> AccessPolicy:
    policy: AccessPolicy = request.app.state.policy
    return policy


Read = Annotated[ReadFile, Depends(_read)]


@router.get("/openapi.json")
def get_openapi_document(read: Read, policy: Annotated[AccessPolicy, Depends(_policy)]) -> Response:
    """Return this document."""
    document = for_policy(read("openapi.json"), policy)
    return Response(document, media_type="application/json", headers=_CACHED)


@router.get("/docs")
def get_docs_page(read: Read) -> Response:
    """Return the page that shows this document."""
    headers = _CACHED | {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
    return Response(read("page.html"), media_type="text/html", headers=headers)


@router.get("/docs/{name}", responses=problems({404: "not_found"}))
def get_docs_file(name: str, read: Read) -> Response:
    """Return a file that the page loads."""
    if name not in PAGE_FILES:
        raise NotFound("not_found", "There is nothing at this path.")
    return Response(read(name), media_type=PAGE_FILES[name], headers=_CACHED)
