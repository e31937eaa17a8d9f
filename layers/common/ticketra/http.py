"""What every HTTP function shares: problem+json (RFC 9457), request ids, the Lambda entry point."""

import asyncio
import json
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from mangum import Mangum
from mangum.adapter import DEFAULT_TEXT_MIME_TYPES
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ticketra import deadline
from ticketra.cors import CorsPolicy
from ticketra.errors import (
    FieldError,
    HeadersTooLarge,
    Invalid,
    Malformed,
    Refusal,
    TooLarge,
    Unavailable,
)
from ticketra.log import logger
from ticketra.settings import load_settings

BODY_LIMIT_BYTES = 64 * 1024
HEADERS_LIMIT_BYTES = 16 * 1024  # of all names and values; API Gateway lets 10 KB through
FIELD_ERRORS_LIMIT = 20
PROBLEM_JSON = "application/problem+json"
REQUEST_ID_HEADER = "X-Request-Id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REQUEST_ID_IN_SCOPE = "ticketra.request_id"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
LambdaHandler = Callable[[dict[str, Any], LambdaContext], dict[str, Any]]
Responses = dict[int | str, dict[str, Any]]


class EdgeSettings(BaseModel):
    """What every HTTP function may find in its environment."""

    cors_origins: str = ""
    """space-separated; see `ticketra.cors.CorsPolicy`"""


@dataclass(frozen=True, slots=True)
class Problem:
    """An error answer (RFC 9457) before it is written; the fields are those of `Refusal`."""

    status: int
    code: str
    detail: str
    retry_after_s: int | None = None
    available: int | None = None
    errors: Sequence[FieldError] = ()

    @classmethod
    def of(cls, refusal: Refusal) -> "Problem":
        """Return `refusal` as an HTTP answer."""
        return cls(
            refusal.http_status,
            refusal.code,
            refusal.detail,
            refusal.retry_after_s,
            refusal.available,
            refusal.errors,
        )

    def response(self, request_id: str) -> Response:
        """Return the answer as application/problem+json."""
        return Response(
            json.dumps(self._body(request_id)),
            status_code=self.status,
            headers=self._headers(),
            media_type=PROBLEM_JSON,
        )

    def _body(self, request_id: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": self.code.replace("_", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
        }
        if self.available is not None:
            body["available"] = self.available
        if self.errors:
            body["errors"] = [{"field": e.field, "message": e.message} for e in self.errors]
        return body

    def _headers(self) -> dict[str, str]:
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="ticketra"'
        return headers


_INTERNAL_ERROR = Problem(
    500, "internal_error", "Something went wrong on our side; the request id helps us find it."
)
_FRAMEWORK_PROBLEMS = {
    404: Problem(404, "not_found", "There is nothing at this path."),
    405: Problem(405, "method_not_allowed", "This path does not take this method."),
}
_UNREADABLE = Malformed("malformed_request", "The request could not be read.")


def create_app(title: str, *routers: APIRouter, **state: object) -> FastAPI:
    """Return an app that answers every error as problem+json and gives each request an id.

    `state` is what the routes find in `request.app.state`.
    """
    app = FastAPI(
        title=title,
        openapi_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    for router in routers:
        app.include_router(router)
    app.state.routes = [route for router in routers for route in router.routes]
    app.state.cors = CorsPolicy(())
    for name, value in state.items():
        setattr(app.state, name, value)
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_middleware(_Edge)
    return app


def problems(codes: Mapping[int, str]) -> Responses:
    """Declare the refusals of a route for the API's document: status → codes, by spaces.

    What any route may answer (a wrong body, a missing token, an outage) need not be declared.
    """
    return {status: {"x-codes": listed.split()} for status, listed in codes.items()}


def headers(status: int, names: str) -> Responses:
    """Declare the headers of a route's answer for the API's document; `names` by spaces."""
    return {status: {"x-headers": names.split()}}


def lambda_handler(app: FastAPI) -> LambdaHandler:
    """Return the Lambda entry point of `app` for API Gateway's proxy events (format 1.0).

    Raises:
        SettingsError: see `EdgeSettings`.

    """
    app.state.cors = CorsPolicy(load_settings(EdgeSettings).cors_origins.split())
    mangum = Mangum(app, lifespan="off", text_mime_types=[*DEFAULT_TEXT_MIME_TYPES, PROBLEM_JSON])
    # Mangum takes the thread's current loop, and newer Pythons do not make one by themselves.
    loop = asyncio.new_event_loop()

    @logger.inject_lambda_context(clear_state=True)
    def handle(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
        asyncio.set_event_loop(loop)
        try:
            str(event.get("path")).encode()
            with deadline.ends_in(context.get_remaining_time_in_millis()):
                return mangum(event, context)  # type: ignore[arg-type]
        except ValueError:
            # The app catches its own; this is text that is not Unicode (a lone surrogate) or a
            # Host header without a port number, which Mangum refuses.
            rid = _gateways_request_id(event) or context.aws_request_id
            logger.append_keys(request_id=rid)
            logger.info("unreadable request")
            return _unreadable(rid)

    return handle


def request_id(request: Request) -> str:
    """Return the id under which this request appears in logs and answers."""
    value: str = request.scope[_REQUEST_ID_IN_SCOPE]
    return value


async def _request_id(request: Request) -> str:
    return request_id(request)


RequestId = Annotated[str, Depends(_request_id)]


class _Edge:
    """Gives each request its id, bounds it, logs it, and hides what we did wrong.

    It also answers preflights and tells browsers which pages may read an answer, errors included.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rid = scope[_REQUEST_ID_IN_SCOPE] = _request_id_of(scope)
        logger.append_keys(request_id=rid)
        cors: CorsPolicy = scope["app"].state.cors
        origin = _header(scope, "origin")
        more = _encoded([(REQUEST_ID_HEADER, rid), *cors.headers(origin)])
        status = 0

        async def send_with_more(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        try:
            _check_headers(scope)
            if (preflight := _preflight_answer(scope, cors, origin)) is not None:
                await preflight(scope, receive, send_with_more)
            else:
                body = await _read_body(receive)
                await self._app(scope, _replay(body, receive), send_with_more)
        except (HeadersTooLarge, TooLarge) as refusal:
            await Problem.of(refusal).response(rid)(scope, receive, send_with_more)
        except Exception:  # noqa: BLE001 - the entry point: log with context, hide from the caller
            logger.exception("request failed")
            await _INTERNAL_ERROR.response(rid)(scope, receive, send_with_more)
        logger.info(
            "request", extra={"method": scope["method"], "path": scope["path"], "status": status}
        )


def _preflight_answer(scope: Scope, cors: CorsPolicy, origin: str | None) -> Response | None:
    """Return the answer to a preflight that may go on; anything else is a request like others."""
    if scope["method"] != "OPTIONS" or _header(scope, "access-control-request-method") is None:
        return None
    allowed = cors.preflight_headers(origin)
    return None if allowed is None else Response(status_code=204, headers=dict(allowed))


def _check_headers(scope: Scope) -> None:
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if size > HEADERS_LIMIT_BYTES:
        raise HeadersTooLarge(
            "headers_too_large", f"The headers may have at most {HEADERS_LIMIT_BYTES} bytes."
        )


def _header(scope: Scope, name: str) -> str | None:
    wanted = name.encode()
    return next((v.decode("latin-1") for n, v in scope["headers"] if n == wanted), None)


def _encoded(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]


async def _read_body(receive: Receive) -> bytes:
    """Read the body whole; API Gateway need not say its length, so that the bytes are counted."""
    body = b""
    while True:
        message = await receive()
        part: bytes = message.get("body", b"")
        body += part
        if len(body) > BODY_LIMIT_BYTES:
            raise TooLarge("body_too_large", f"The body may have at most {BODY_LIMIT_BYTES} bytes.")
        if not message.get("more_body", False):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives `body` once and then asks the original."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


# The handlers and what routes depend on are coroutines: others the framework runs in a thread.
async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    if isinstance(error, Unavailable):
        logger.warning(error.code, exc_info=error)
    return Problem.of(error).response(request_id(request))


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(e["type"] == "json_invalid" for e in found):
        refusal: Refusal = Malformed("malformed_json", "The body is not valid JSON.")
    else:
        fields = [
            FieldError(_path(e["loc"]), e["msg"].removeprefix("Value error, "))
            for e in found[:FIELD_ERRORS_LIMIT]
        ]
        refusal = Invalid(
            "validation_failed", "Some fields are missing or wrong: see errors.", errors=fields
        )
    return Problem.of(refusal).response(request_id(request))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the framework itself refuses: no such route or method, an unreadable body."""
    assert isinstance(error, HTTPException)
    problem = _FRAMEWORK_PROBLEMS.get(error.status_code, Problem.of(_UNREADABLE))
    response = problem.response(request_id(request))
    if error.status_code == 405:
        response.headers["Allow"] = ", ".join(_methods_of(request))
    return response


def _methods_of(request: Request) -> list[str]:
    """Return the methods that the request's path takes; the framework names one route's only."""
    routes = [route for route in request.app.state.routes if isinstance(route, APIRoute)]
    matching = [route for route in routes if route.path_regex.match(request.scope["path"])]
    return sorted({method for route in matching for method in route.methods or ()})


def _unreadable(request_id: str) -> dict[str, Any]:
    response = Problem.of(_UNREADABLE).response(request_id)
    return {
        "statusCode": response.status_code,
        "headers": {"content-type": PROBLEM_JSON, REQUEST_ID_HEADER.lower(): request_id},
        "multiValueHeaders": {},
        "body": bytes(response.body).decode(),
        "isBase64Encoded": False,
    }


def _request_id_of(scope: Scope) -> str:
    """Take the client's request id if it is harmless, else API Gateway's, else a new one."""
    sent = _header(scope, REQUEST_ID_HEADER.lower())
    if sent is not None and _REQUEST_ID.fullmatch(sent):
        return sent
    return _gateways_request_id(scope.get("aws.event", {})) or str(uuid.uuid4())


def _gateways_request_id(event: Mapping[str, Any]) -> str:
    return str(event.get("requestContext", {}).get("requestId") or "")


def _operation_id(route: APIRoute) -> str:
    return route.name


def _path(location: tuple[int | str, ...]) -> str:
    """('body', 'price', 'currency') becomes 'price.currency'."""
    return ".".join(str(part) for part in location[1:]) or str(location[0])
