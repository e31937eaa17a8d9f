"""What every HTTP function shares: problem+json (RFC 9457), request ids, the Lambda entry point."""

import json
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from mangum import Mangum
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ticketra.errors import FieldError, Invalid, Malformed, Refusal, TooLarge
from ticketra.log import logger

BODY_LIMIT_BYTES = 64 * 1024
REQUEST_ID_HEADER = "X-Request-Id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CODE_OF_STATUS = {404: "not_found", 405: "method_not_allowed"}

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def create_app(title: str) -> FastAPI:
    """Return a FastAPI app that answers every error as problem+json and carries a request id."""
    app = FastAPI(title=title, openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_middleware(_Edge)
    return app


def lambda_handler(app: FastAPI) -> Callable[[dict[str, Any], LambdaContext], dict[str, Any]]:
    """Return the Lambda entry point of `app` for API Gateway's proxy events."""
    mangum = Mangum(app, lifespan="off")

    @logger.inject_lambda_context(clear_state=True)
    def handle(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
        return mangum(event, context)  # type: ignore[arg-type]

    return handle


def request_id(request: Request) -> str:
    """Return the id under which this request appears in logs and answers."""
    value: str = request.scope["ticketra.request_id"]
    return value


def problem(refusal: Refusal, request_id: str) -> Response:
    """Return `refusal` as an application/problem+json response."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": _title(refusal.code),
        "status": refusal.http_status,
        "detail": refusal.detail,
        "code": refusal.code,
        "request_id": request_id,
    }
    if refusal.available is not None:
        body["available"] = refusal.available
    if refusal.errors:
        body["errors"] = [{"field": e.field, "message": e.message} for e in refusal.errors]
    headers = {}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    if refusal.http_status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="ticketra"'
    return Response(
        json.dumps(body),
        status_code=refusal.http_status,
        headers=headers,
        media_type="application/problem+json",
    )


class _Edge:
    """Gives each request its id, bounds its body, logs it, and hides what we did wrong."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rid = scope["ticketra.request_id"] = _request_id_of(scope)
        logger.append_keys(request_id=rid)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (REQUEST_ID_HEADER.lower().encode(), rid.encode()),
                ]
            await send(message)

        try:
            if _content_length(scope) > BODY_LIMIT_BYTES:
                raise TooLarge(
                    "body_too_large", f"The body may have at most {BODY_LIMIT_BYTES} bytes."
                )
            await self._app(scope, receive, send_with_id)
        except TooLarge as refusal:
            await problem(refusal, rid)(scope, receive, send_with_id)
        except Exception:  # noqa: BLE001 - the entry point: log with context, hide from the caller
            logger.exception("request failed")
            await _internal_error(rid)(scope, receive, send_with_id)
        logger.info(
            "request", extra={"method": scope["method"], "path": scope["path"], "status": status}
        )


def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101 - registered for this type only
    return problem(error, request_id(request))


def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    found = error.errors()
    if any(e["type"] == "json_invalid" for e in found):
        refusal: Refusal = Malformed("malformed_json", "The body is not valid JSON.")
    else:
        fields = [
            FieldError(_path(e["loc"]), e["msg"].removeprefix("Value error, ")) for e in found
        ]
        refusal = Invalid(
            "validation_failed", "Some fields are missing or wrong: see errors.", errors=fields
        )
    return problem(refusal, request_id(request))


def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    code = _CODE_OF_STATUS.get(error.status_code, "bad_request")
    refusal = Refusal(code, _DETAIL_OF_CODE[code])
    refusal.http_status = error.status_code  # type: ignore[misc]
    response = problem(refusal, request_id(request))
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


_DETAIL_OF_CODE = {
    "not_found": "There is nothing at this path.",
    "method_not_allowed": "This path does not take this method.",
    "bad_request": "The request could not be read.",
}


def _internal_error(rid: str) -> Response:
    refusal = Refusal(
        "internal_error", "Something went wrong on our side; the request id helps us find it."
    )
    refusal.http_status = 500  # type: ignore[misc]
    return problem(refusal, rid)


def _request_id_of(scope: Scope) -> str:
    """Take the client's request id if it is harmless, else API Gateway's, else a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID_HEADER.lower().encode():
            sent = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(sent):
                return str(sent)
    context = scope.get("aws.event", {}).get("requestContext", {})
    return str(context.get("requestId") or uuid.uuid4())


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _path(location: tuple[int | str, ...]) -> str:
    """('body', 'price', 'currency') becomes 'price.currency'."""
    return ".".join(str(part) for part in location[1:]) or str(location[0])


def _title(code: str) -> str:
    return code.replace("_", " ").capitalize()
