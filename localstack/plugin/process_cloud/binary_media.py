"""The binary media type */* of an API: it takes everything for binary. LocalStack ignores it.

A function then gets each body in base64, and what it answers in base64 is decoded whatever the
client accepts: a browser that shows a picture names other types first.
Source: the API Gateway developer guide, "Binary media types for REST APIs in API Gateway".
"""

import base64
from collections.abc import Sequence
from typing import Any

from localstack.services.apigateway.next_gen.execute_api.context import RestApiInvocationContext
from localstack.services.apigateway.next_gen.execute_api.integrations import aws

EVERYTHING = "*/*"


def support_everything() -> None:
    """Let the functions behind an API that names */* get and answer what they do on AWS."""
    matches = aws.mime_type_matches_binary_media_types
    create_event = aws.RestApiAwsProxyIntegration.create_lambda_input_event

    def is_binary(mime_type: str | None, binary_media_types: Sequence[str]) -> bool:
        return EVERYTHING in binary_media_types or matches(mime_type, binary_media_types)

    def create_lambda_input_event(integration: Any, context: RestApiInvocationContext) -> Any:
        event = create_event(integration, context)
        media_types = context.deployment.rest_api.rest_api.get("binaryMediaTypes") or []
        return in_base64(event) if EVERYTHING in media_types else event

    aws.mime_type_matches_binary_media_types = is_binary
    aws.RestApiAwsProxyIntegration.create_lambda_input_event = create_lambda_input_event


def in_base64(event: dict[str, Any]) -> dict[str, Any]:
    """Return a function's event with its body in base64, if it has one."""
    if not event["body"] or event["isBase64Encoded"]:
        return event
    body = base64.b64encode(event["body"].encode()).decode()
    return {**event, "body": body, "isBase64Encoded": True}
