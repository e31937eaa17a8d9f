"""The public REST API: one base URL in front of the three functions."""

import json
from dataclasses import dataclass

from aws_cdk import Tags
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra_cdk.config import StageConfig

PROBLEM_JSON = "application/problem+json"
# A function's answer is decoded from base64 where the first type that the client accepts is one of
# these. That of an <img> is image/avif or image/webp, whatever picture comes: only this covers all.
# It also makes every request's body arrive in base64, which the functions' adapter undoes.
BINARY_MEDIA_TYPES = ["*/*"]
_CORS = {
    "Access-Control-Allow-Origin": "'*'",
    "Access-Control-Expose-Headers": "'Retry-After, X-Request-Id'",
}


class Api(Construct):
    """Routes `/api/...` to the functions; answers what matches no route as problem+json too."""

    def __init__(
        self,
        scope: Construct,
        id: str,  # noqa: A002
        *,
        config: StageConfig,
        identity: lambda_.IFunction,
        event: lambda_.IFunction,
        gateway: lambda_.IFunction,
    ) -> None:
        super().__init__(scope, id)
        self.rest_api = apigateway.RestApi(
            self,
            "RestApi",
            rest_api_name=config.prefix,
            endpoint_types=[apigateway.EndpointType.REGIONAL],
            binary_media_types=BINARY_MEDIA_TYPES,
            deploy_options=apigateway.StageOptions(stage_name=config.stage),
            cloud_watch_role=False,
        )
        # LocalStack takes the API's id from this tag, so that its URL stays the same.
        Tags.of(self.rest_api).add("_custom_id_", config.api_id)
        base = self.rest_api.root.add_resource("api")
        _route(base.add_resource("auth"), identity)
        _route(base.add_resource("events"), event)
        _route(base.add_resource("bookings"), gateway)
        _route(base.add_resource("docs"), gateway)
        _at(base.add_resource("openapi.json"), gateway)
        for refusal in _REFUSALS:
            self._answer(refusal, with_cors=bool(config.cors_origins))

    def _answer(self, refusal: "_Refusal", *, with_cors: bool) -> None:
        """Let one of API Gateway's own refusals look like the functions' refusals.

        It cannot tell one origin from another, so that any page may read these, if any page may
        read anything: they say nothing that depends on who asks.
        """
        body: dict[str, str | int] = {
            "type": "about:blank",
            "title": refusal.code.replace("_", " ").capitalize(),
            "detail": refusal.detail,
            "code": refusal.code,
            "request_id": "$context.requestId",
        }
        if refusal.status is not None:
            body["status"] = refusal.status
        self.rest_api.add_gateway_response(
            refusal.kind.response_type.title().replace("_", ""),
            type=refusal.kind,
            status_code=None if refusal.status is None else str(refusal.status),
            response_headers={
                "Content-Type": f"'{PROBLEM_JSON}'",
                "X-Request-Id": "context.requestId",
                **(_CORS if with_cors else {}),
            },
            templates={"application/json": json.dumps(body)},
        )


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A refusal of API Gateway itself; without a status it keeps the one that it comes with."""

    kind: apigateway.ResponseType
    status: int | None
    code: str
    detail: str


_OUR_FAULT = "Something went wrong on our side; the request id helps us find it."
_REFUSALS = (
    _Refusal(
        apigateway.ResponseType.MISSING_AUTHENTICATION_TOKEN,  # its name for an unknown route
        404,
        "not_found",
        "There is nothing at this path.",
    ),
    _Refusal(
        apigateway.ResponseType.THROTTLED,
        429,
        "too_many_requests",
        "Too many requests at once: try again shortly.",
    ),
    _Refusal(
        apigateway.ResponseType.REQUEST_TOO_LARGE,
        413,
        "body_too_large",
        "The request is too large.",
    ),
    _Refusal(
        apigateway.ResponseType.INTEGRATION_TIMEOUT,
        504,
        "timeout",
        "The answer took too long: try again.",
    ),
    _Refusal(
        apigateway.ResponseType.DEFAULT_4_XX, None, "bad_request", "The request could not be read."
    ),
    _Refusal(apigateway.ResponseType.DEFAULT_5_XX, None, "internal_error", _OUR_FAULT),
)


def _route(resource: apigateway.Resource, function: lambda_.IFunction) -> None:
    """Send everything at and below `resource` to `function`."""
    integration = _at(resource, function)
    resource.add_proxy(default_integration=integration, any_method=True)


def _at(resource: apigateway.Resource, function: lambda_.IFunction) -> apigateway.Integration:
    """Send every method of `resource` to `function`; preflights too, which it answers itself."""
    integration = apigateway.LambdaIntegration(function, allow_test_invoke=False)
    resource.add_method("ANY", integration)
    return integration
