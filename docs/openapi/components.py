"""What the operations of the document share, and the catalogue's entries that they make use of."""

from collections.abc import Iterable
from typing import Any

from docs.openapi import catalogue
from ticketra.http import PROBLEM_JSON

Json = dict[str, Any]

BEARER = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "The `token` that logging in answers with.",
}
PROBLEM = {
    "title": "Problem",
    "description": "An error (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string", "const": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "What to do, in one sentence."},
        "code": {"type": "string", "description": "Stable; what programs compare."},
        "request_id": {"type": "string"},
        "available": {"type": "integer", "description": "How many tickets are left."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
_MEANING = {
    "400": "The request could not be read.",
    "401": "No valid credential came with the request.",
    "403": "The caller may not do this.",
    "404": "There is no such thing, or none that the caller may know of.",
    "409": "The present state does not allow it.",
    "412": "It has changed since it was read.",
    "413": "The body is too large.",
    "422": "The request was read, but what it asks is not allowed.",
    "428": "The request must say which version it changes.",
    "429": "The caller has to slow down.",
    "431": "The headers are too large.",
    "503": "Something that is needed is away for the moment.",
    "5XX": "Something went wrong on our side.",
}
_STATUS_OF_CODE = {"timeout": 504, "internal_error": 500}
_WAITS = {"429", "503"}
_WAITING_CODES = {"event_busy"}
_KINDS = ("PROBLEMS", "BODIES", "OTHER_ANSWERS", "HEADERS", "PARAMETERS")


class IncompleteError(Exception):
    """The code says something that has no description or example, or the other way round."""


class Components:
    """Collects what is referred to: schemas, headers, answers and examples."""

    def __init__(self) -> None:
        self._schemas: Json = {"Problem": PROBLEM}
        self._headers: Json = {}
        self._responses: Json = {}
        self._examples: Json = {}
        self._used: dict[str, set[str]] = {kind: set() for kind in _KINDS}

    def add_schemas(self, schemas: Json) -> None:
        """Take the models of one function.

        Raises:
            IncompleteError: another function has a different one of the same name.

        """
        for name, schema in schemas.items():
            if name in {"HTTPValidationError", "ValidationError"}:  # FastAPI's own, never sent
                continue
            if self._schemas.setdefault(name, schema) != schema:
                raise IncompleteError(f"two functions have different models called {name}")

    def look_up(self, kind: str, name: str) -> Any:
        """Return an entry of the catalogue.

        Raises:
            IncompleteError: there is none.

        """
        entries: Json = getattr(catalogue, kind)
        if name not in entries:
            raise IncompleteError(f"docs/openapi/catalogue.py: {kind} lacks {name!r}")
        self._used[kind].add(name)
        return entries[name]

    def headers(self, names: Iterable[str]) -> Json:
        """Return the headers of an answer."""
        return {name: self._header(name) for name in names}

    def problem(self, status: str, codes: list[str], *, shared: bool) -> Json:
        """Return the answer that refuses with one of `codes`."""
        names = ["X-Request-Id"]
        if status in _WAITS or _WAITING_CODES & set(codes):
            names.append("Retry-After")
        if status == "401":
            names.append("WWW-Authenticate")
        schema = {
            "$ref": "#/components/schemas/Problem",
            "properties": {"code": {"enum": codes}},
        }
        examples = {code: self._example(status, code) for code in codes}
        answer = {
            "description": _MEANING[status],
            "headers": self.headers(names),
            "content": {PROBLEM_JSON: {"schema": schema, "examples": examples}},
        }
        if not shared:
            return answer
        return self._refer("responses", self._responses, ".".join(codes), answer)

    def as_json(self) -> Json:
        """Return the components.

        Raises:
            IncompleteError: an entry of the catalogue has not been used.

        """
        for kind in _KINDS:
            if unused := getattr(catalogue, kind).keys() - self._used[kind]:
                raise IncompleteError(
                    f"docs/openapi/catalogue.py: nothing uses {sorted(unused)} of {kind}"
                )
        return {
            "securitySchemes": {"bearer": BEARER},
            "schemas": _sorted(self._schemas),
            "headers": _sorted(self._headers),
            "responses": _sorted(self._responses),
            "examples": _sorted(self._examples),
        }

    def _header(self, name: str) -> Json:
        text, example = self.look_up("HEADERS", name)
        header = {"description": text, "schema": {"type": "string"}, "example": example}
        return self._refer("headers", self._headers, name, header)

    def _example(self, status: str, code: str) -> Json:
        detail, more = self.look_up("PROBLEMS", code)
        value = {
            "type": "about:blank",
            "title": code.replace("_", " ").capitalize(),
            "status": _STATUS_OF_CODE.get(code) or int(status),
            "detail": detail,
            "code": code,
            "request_id": catalogue.REQUEST_ID,
            **more,
        }
        return self._refer("examples", self._examples, code, {"value": value})

    @staticmethod
    def _refer(kind: str, kept: Json, name: str, component: Json) -> Json:
        if kept.setdefault(name, component) != component:
            raise IncompleteError(f"{name} means different things in {kind}")
        return {"$ref": f"#/components/{kind}/{name}"}


def _sorted(components: Json) -> Json:
    return dict(sorted(components.items()))
