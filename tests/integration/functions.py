"""The deployed form of a function: its real entry point, its environment, AWS in memory."""

import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from moto import mock_aws

from tests.unit.common.support import AUDIENCE, ISSUER, LambdaContext, SigningKey, api_event
from ticketra import secrets

AWS = {
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
}
JWKS_PARAMETER = "/test/jwks"


class Function:
    """Calls a Lambda handler as API Gateway does."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def call(
        self, method: str, path: str, body: Any = None, **event: Any
    ) -> tuple[int, Any, dict[str, str]]:
        """Return status, body and headers of the answer."""
        status, sent, headers = self.text(method, path, body, **event)
        return status, json.loads(sent) if sent else None, headers

    def text(
        self, method: str, path: str, body: Any = None, **event: Any
    ) -> tuple[int, str, dict[str, str]]:
        """Return status, body as it was sent, and headers of the answer."""
        answer = self._handler(api_event(method, path, body, **event), LambdaContext())
        assert not answer["isBase64Encoded"]
        return answer["statusCode"], answer["body"], answer["headers"]


@contextmanager
def deployed(
    name: str,
    environment: Mapping[str, str],
    *,
    secret_values: Mapping[str, Any],
    key: SigningKey,
) -> Iterator[Function]:
    """Start function `name` with `environment`, with its secrets and the public keys in place."""
    tokens = {
        "TOKEN_ISSUER": ISSUER,
        "TOKEN_AUDIENCE": AUDIENCE,
        "TOKEN_JWKS_PARAMETER": JWKS_PARAMETER,
    }
    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        for variable, value in (AWS | tokens | dict(environment)).items():
            patch.setenv(variable, value)
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        forget_secrets()
        for secret, value in secret_values.items():
            text = value if isinstance(value, str) else json.dumps(value)
            boto3.client("secretsmanager").create_secret(Name=secret, SecretString=text)
        boto3.client("ssm").put_parameter(Name=JWKS_PARAMETER, Value=key.jwks, Type="String")
        module = importlib.import_module(f"{name}.handler")
        try:
            yield Function(module.handler)
        finally:
            del sys.modules[f"{name}.handler"]
            forget_secrets()


def forget_secrets() -> None:
    """Let the next call read secrets again, with clients of its own."""
    for cached in (secrets.secret_string, secrets._secrets_manager, secrets._ssm):
        cached.cache_clear()
