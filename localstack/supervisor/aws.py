"""What LocalStack must know before anything is deployed: secrets, key sets, the asset bucket."""

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypedDict

import boto3
import botocore.session
from botocore.config import Config

from supervisor.secrets import (
    JWKS_PARAMETER,
    TICKET_KEYS_SECRET,
    TICKETS_JWKS_PARAMETER,
    TOKEN_KEYS_SECRET,
    Secrets,
)
from supervisor.settings import ASSET_BUCKET, REGION, REPOSITORY, STAGE, Settings

if TYPE_CHECKING:
    from mypy_boto3_ecs import ECSClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_ssm import SSMClient

CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 20
ATTEMPT_LIMIT = 2
REPLACED_POLL_S = 1
REPLACED_LIMIT_S = 90
CLUSTER = f"ticketra-{STAGE}"
BOOKING_SERVICE = f"ticketra-{STAGE}-booking"


class ClientSettings(TypedDict):
    """Arguments of `boto3.client`."""

    endpoint_url: str
    region_name: str
    aws_access_key_id: str
    aws_secret_access_key: str
    config: Config


def client_settings(settings: Settings) -> ClientSettings:
    """Return what makes a boto3 client speak to the instance's emulator and to nothing else."""
    return {
        "endpoint_url": settings.aws_endpoint,
        "region_name": REGION,
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "config": Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"total_max_attempts": ATTEMPT_LIMIT},
            s3={"addressing_style": "path"},
            proxies={},  # the user's proxy leads away from this machine
        ),
    }


def session() -> boto3.Session:
    """Return a session that reads nothing of the user's own AWS profiles."""
    nothing = (None, None, os.devnull, None)
    core = botocore.session.Session(
        session_vars={
            "profile": (None, None, None, None),
            "config_file": nothing,
            "credentials_file": nothing,
        }
    )
    return boto3.Session(botocore_session=core)


def tool_environment(settings: Settings) -> dict[str, str]:
    """Return the variables that make `cdklocal`, `awslocal` and the AWS SDKs use the emulator."""
    return {
        "TICKETRA_HOME": str(settings.home),
        "AWS_CONFIG_FILE": str(REPOSITORY / "localstack" / "awscli_tail" / "config"),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": settings.aws_endpoint,
        "AWS_ENDPOINT_URL_S3": settings.aws_endpoint,
        "CDK_DISABLE_CLI_TELEMETRY": "1",
        "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "1",
    }


def provision(settings: Settings, secrets: Secrets) -> int:
    """Put in place what is missing or differs; return how many things that were."""
    options = client_settings(settings)
    # Clients are made in one thread, because a session is not for several.
    own = session()
    manager = own.client("secretsmanager", **options)
    store, storage = own.client("ssm", **options), own.client("s3", **options)
    # At the same time, because the emulator loads each service at its first request.
    with ThreadPoolExecutor() as pool:
        changes: list[Future[int]] = [
            pool.submit(_put_secrets, manager, secrets.for_secrets_manager()),
            pool.submit(_put_key_sets, store, secrets),
            pool.submit(_make_bucket, storage),
        ]
    return sum(change.result() for change in changes)


def publish_token_keys(settings: Settings, secrets: Secrets) -> None:
    """Publish the key set with which the functions verify tokens."""
    store = session().client("ssm", **client_settings(settings))
    _put_parameter(store, JWKS_PARAMETER, secrets.jwks())


def put_token_keys(settings: Settings, secrets: Secrets) -> None:
    """Give identity the keys with which it signs tokens."""
    manager = session().client("secretsmanager", **client_settings(settings))
    _put_secret(manager, TOKEN_KEYS_SECRET, secrets.for_secrets_manager()[TOKEN_KEYS_SECRET])


def publish_ticket_keys(settings: Settings, secrets: Secrets) -> None:
    """Publish the key set with which doors verify tickets."""
    store = session().client("ssm", **client_settings(settings))
    _put_parameter(store, TICKETS_JWKS_PARAMETER, secrets.tickets_jwks())


def put_ticket_keys(settings: Settings, secrets: Secrets) -> None:
    """Let the next booking task sign tickets with these keys."""
    manager = session().client("secretsmanager", **client_settings(settings))
    _put_secret(manager, TICKET_KEYS_SECRET, secrets.for_secrets_manager()[TICKET_KEYS_SECRET])


def replace_booking_tasks(settings: Settings) -> bool:
    """Replace the booking tasks by new ones, which read their secrets; False if none is deployed.

    Raises:
        botocore.exceptions.WaiterError: the new ones did not run within REPLACED_LIMIT_S.

    """
    client: ECSClient = session().client("ecs", **client_settings(settings))
    try:
        client.update_service(cluster=CLUSTER, service=BOOKING_SERVICE, forceNewDeployment=True)
    except (
        client.exceptions.ClusterNotFoundException,
        client.exceptions.ServiceNotFoundException,
        client.exceptions.ServiceNotActiveException,
    ):
        return False
    client.get_waiter("services_stable").wait(
        cluster=CLUSTER,
        services=[BOOKING_SERVICE],
        WaiterConfig={
            "Delay": REPLACED_POLL_S,
            "MaxAttempts": REPLACED_LIMIT_S // REPLACED_POLL_S,
        },
    )
    return True


def _put_key_sets(store: "SSMClient", secrets: Secrets) -> int:
    values = {JWKS_PARAMETER: secrets.jwks(), TICKETS_JWKS_PARAMETER: secrets.tickets_jwks()}
    return sum(_put_parameter(store, name, value) for name, value in values.items())


def _put_secrets(manager: "SecretsManagerClient", values: Mapping[str, str]) -> int:
    return sum(_put_secret(manager, name, value) for name, value in values.items())


def _put_secret(manager: "SecretsManagerClient", name: str, value: str) -> bool:
    try:
        current = manager.get_secret_value(SecretId=name).get("SecretString")
    except manager.exceptions.ResourceNotFoundException:
        manager.create_secret(Name=name, SecretString=value)
        return True
    if current == value:
        return False
    manager.put_secret_value(SecretId=name, SecretString=value)
    return True


def _put_parameter(store: "SSMClient", name: str, value: str) -> bool:
    try:
        if store.get_parameter(Name=name)["Parameter"]["Value"] == value:
            return False
    except store.exceptions.ParameterNotFound:
        pass
    store.put_parameter(Name=name, Value=value, Type="String", Overwrite=True)
    return True


def _make_bucket(storage: "S3Client") -> bool:
    names = {bucket["Name"] for bucket in storage.list_buckets()["Buckets"]}
    if ASSET_BUCKET in names:
        return False
    storage.create_bucket(Bucket=ASSET_BUCKET)
    return True
