"""The public REST API: one base URL in front of the three functions."""

from aws_cdk import Tags
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra_cdk.config import StageConfig

PROBLEM_JSON = "application/problem+json"


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
            deploy_options=apigateway.StageOptions(stage_name=config.stage),
            cloud_watch_role=False,
        )
        # LocalStack takes the API's id from this tag, so that its URL stays the same.
        Tags.of(self.rest_api).add("_custom_id_", config.api_id)
        base = self.rest_api.root.add_resource("api")
        _route(base.add_resource("auth"), identity)
        _route(base.add_resource("events"), event)
        _route(base.add_resource("bookings"), gateway)
        for name, (kind, status, code, detail) in _OWN_ANSWERS.items():
            self._problem(name, kind, status, code, detail)

    def _problem(
        self,
        id: str,  # noqa: A002
        kind: apigateway.ResponseType,
        status: str,
        code: str,
        detail: str,
    ) -> None:
        """Let API Gateway's own refusal `kind` look like the functions' refusals."""
        title = code.replace("_", " ").capitalize()
        body = (
            f'{{"type":"about:blank","title":"{title}","status":{status},'
            f'"detail":"{detail}","code":"{code}","request_id":"$context.requestId"}}'
        )
        self.rest_api.add_gateway_response(
            id,
            type=kind,
            status_code=status,
            response_headers={"Content-Type": f"'{PROBLEM_JSON}'"},
            templates={"application/json": body},
        )


_Answer = tuple[apigateway.ResponseType, str, str, str]
_OWN_ANSWERS: dict[str, _Answer] = {
    "NoRoute": (
        apigateway.ResponseType.MISSING_AUTHENTICATION_TOKEN,
        "404",
        "not_found",
        "There is nothing at this path.",
    ),
    "Throttled": (
        apigateway.ResponseType.THROTTLED,
        "429",
        "too_many_requests",
        "Too many requests at once: try again shortly.",
    ),
    "TooLarge": (
        apigateway.ResponseType.REQUEST_TOO_LARGE,
        "413",
        "body_too_large",
        "The request is too large.",
    ),
    "Timeout": (
        apigateway.ResponseType.INTEGRATION_TIMEOUT,
        "504",
        "timeout",
        "The answer took too long: try again.",
    ),
    "Failure": (
        apigateway.ResponseType.INTEGRATION_FAILURE,
        "502",
        "internal_error",
        "Something went wrong on our side; the request id helps us find it.",
    ),
    "BadRequest": (
        apigateway.ResponseType.DEFAULT_4_XX,
        "400",
        "bad_request",
        "The request could not be read.",
    ),
    "ServerError": (
        apigateway.ResponseType.DEFAULT_5_XX,
        "500",
        "internal_error",
        "Something went wrong on our side; the request id helps us find it.",
    ),
}


def _route(resource: apigateway.Resource, function: lambda_.IFunction) -> None:
    """Send everything at and below `resource` to `function`."""
    integration = apigateway.LambdaIntegration(function, allow_test_invoke=False)
    resource.add_method("ANY", integration)
    resource.add_proxy(default_integration=integration, any_method=True)
