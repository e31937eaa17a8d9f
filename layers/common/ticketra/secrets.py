"""Secrets and parameters, read from AWS at run time and kept for the life of the process."""

import json
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from ticketra.errors import Unavailable

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_ssm import SSMClient

CONNECT_TIMEOUT_S = 1
READ_TIMEOUT_S = 2
ATTEMPTS_LIMIT = 2
RETRY_AFTER_S = 1
_THROTTLED = frozenset({"ThrottlingException", "TooManyRequestsException"})


class Credentials(NamedTuple):
    """A user name and a password; both are empty where a server asks for none."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r})"


# boto3 costs a third of a second to import, and containers never need it: hence the late imports.


@cache
def _secrets_manager() -> "SecretsManagerClient":
    import boto3  # noqa: PLC0415

    client: SecretsManagerClient = boto3.client("secretsmanager", config=_bounds())
    return client


@cache
def _ssm() -> "SSMClient":
    import boto3  # noqa: PLC0415

    client: SSMClient = boto3.client("ssm", config=_bounds())
    return client


def _bounds() -> Any:
    from botocore.config import Config  # noqa: PLC0415

    return Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"total_max_attempts": ATTEMPTS_LIMIT, "mode": "standard"},
    )


@cache
def secret_string(name: str) -> str:
    """Return the value that `present_secret` had when it was first asked for."""
    return present_secret(name)


def present_secret(name: str) -> str:
    """Return the value of the Secrets Manager secret `name`, a name or an ARN; never cached here.

    Raises:
        Unavailable: Secrets Manager cannot be reached.
        botocore.exceptions.ClientError: it is not there, or may not be read.

    """
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        return _secrets_manager().get_secret_value(SecretId=name)["SecretString"]
    except BotoCoreError as error:
        raise _away() from error
    except ClientError as error:
        if _passes(error):
            raise _away() from error
        raise


def credentials(name: str) -> Credentials:
    """Return the user name and password that the JSON secret `name` holds.

    Raises:
        Unavailable: Secrets Manager cannot be reached.

    """
    value = json.loads(secret_string(name))
    return Credentials(value["username"], value["password"])


def parameter(name: str) -> str:
    """Return the present value of the SSM parameter `name`; never cached here.

    Raises:
        Unavailable: the parameter store cannot be reached.
        botocore.exceptions.ClientError: it is not there, or may not be read.

    """
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        return _ssm().get_parameter(Name=name)["Parameter"]["Value"]
    except BotoCoreError as error:
        raise _away() from error
    except ClientError as error:
        if _passes(error):
            raise _away() from error
        raise


def _passes(error: "ClientError") -> bool:
    """Tell whether the service refused because of itself or its load, not because of us."""
    answer = error.response
    status = answer["ResponseMetadata"]["HTTPStatusCode"]
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or answer["Error"]["Code"] in _THROTTLED


def _away() -> Unavailable:
    return Unavailable(
        "temporarily_unavailable",
        "Something that we need is away for the moment: try again shortly.",
        retry_after_s=RETRY_AFTER_S,
    )
