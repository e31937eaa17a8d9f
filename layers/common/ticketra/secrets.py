"""Secrets and parameters, read from AWS at run time and kept for the life of the process."""

import json
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_ssm import SSMClient


class Credentials(NamedTuple):
    """A user name and a password; both are empty where a server asks for none."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r})"


@cache
def _secrets_manager() -> "SecretsManagerClient":
    import boto3  # noqa: PLC0415 - costs a third of a second, and containers never need it

    client: SecretsManagerClient = boto3.client("secretsmanager")
    return client


@cache
def _ssm() -> "SSMClient":
    import boto3  # noqa: PLC0415

    client: SSMClient = boto3.client("ssm")
    return client


@cache
def secret_string(name: str) -> str:
    """Return the present value of the Secrets Manager secret `name`, a name or an ARN.

    Raises:
        botocore.exceptions.ClientError: it is not there, or may not be read.

    """
    return _secrets_manager().get_secret_value(SecretId=name)["SecretString"]


def credentials(name: str) -> Credentials:
    """Return the user name and password that the JSON secret `name` holds."""
    value = json.loads(secret_string(name))
    return Credentials(value["username"], value["password"])


def parameter(name: str) -> str:
    """Return the present value of the SSM parameter `name`; never cached here."""
    return _ssm().get_parameter(Name=name)["Parameter"]["Value"]
