"""API Gateway's own refusals as the API's GatewayResponses say; LocalStack keeps but ignores them.

Templates and parameters take `$context` variables by plain substitution, as API Gateway does it.
Source: the API Gateway developer guide, "Gateway responses in API Gateway".
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from localstack.http import Response
from localstack.services.apigateway.next_gen.execute_api.context import RestApiInvocationContext
from localstack.services.apigateway.next_gen.execute_api.gateway_response import (
    BaseGatewayException,
    get_gateway_response_or_default,
)
from localstack.services.apigateway.next_gen.execute_api.handlers.gateway_exception import (
    GatewayExceptionHandler,
)

HEADER_PREFIX = "gatewayresponse.header."
JSON = "application/json"
_VARIABLE = re.compile(r"\$context\.([A-Za-z.]+)")


def use_templates() -> None:
    """Let every REST API answer its own refusals from its GatewayResponses."""
    original = GatewayExceptionHandler.create_exception_response

    def create_exception_response(
        handler: GatewayExceptionHandler,
        exception: BaseGatewayException,
        context: RestApiInvocationContext,
    ) -> Response:
        response = original(handler, exception, context)
        chosen = get_gateway_response_or_default(
            exception.type, context.deployment.rest_api.gateway_responses
        )
        template = (chosen.get("responseTemplates") or {}).get(JSON)
        variables = {**context.context_variables, "error": _error(exception)}
        if template is not None:
            response.set_data(substituted(template, variables))
        for name, value in headers(chosen.get("responseParameters") or {}, variables).items():
            response.headers[name] = value
        return response

    GatewayExceptionHandler.create_exception_response = create_exception_response


def substituted(template: str, variables: Mapping[str, Any]) -> str:
    """Return `template` with each `$context.a.b` replaced; what is unknown becomes empty."""

    def value(match: re.Match[str]) -> str:
        found: Any = variables
        for name in match[1].split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return "" if found is None else str(found)

    return _VARIABLE.sub(value, template)


def headers(parameters: Mapping[str, str], variables: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers that `parameters` set: static values in quotes, or context variables."""
    return {
        name.removeprefix(HEADER_PREFIX): value[1:-1]
        if value.startswith("'")
        else substituted(f"${value}", variables)
        for name, value in parameters.items()
        if name.startswith(HEADER_PREFIX)
    }


def _error(exception: BaseGatewayException) -> dict[str, str]:
    return {
        "message": exception.message,
        "messageString": json.dumps(exception.message),
        "responseType": str(exception.type),
    }
