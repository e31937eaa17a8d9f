import json
from collections.abc import Iterator

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from moto import mock_aws

from ticketra import secrets
from ticketra.errors import Unavailable

REGION = "eu-central-1"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    _forget()
    yield
    _forget()


def _forget() -> None:
    for cached in (secrets.secret_string, secrets._secrets_manager, secrets._ssm):
        cached.cache_clear()


@mock_aws
def test_reads_credentials_and_keeps_them() -> None:
    client = boto3.client("secretsmanager")
    value = json.dumps({"username": "identity", "password": "old"})
    client.create_secret(Name="a/b", SecretString=value)
    assert secrets.credentials("a/b") == ("identity", "old")

    client.put_secret_value(SecretId="a/b", SecretString="{}")

    assert secrets.credentials("a/b") == ("identity", "old")


def test_credentials_do_not_show_the_password() -> None:
    assert "hush" not in repr(secrets.Credentials("name", "hush"))


@mock_aws
def test_a_missing_secret_is_our_fault_not_an_outage() -> None:
    with pytest.raises(ClientError, match="ResourceNotFound"):
        secrets.secret_string("nowhere")


@pytest.mark.parametrize(
    ("code", "status"), [("InternalServiceError", 500), ("ThrottlingException", 400)]
)
def test_a_service_that_is_overloaded_is_an_outage(code: str, status: int) -> None:
    for client, operation, read in (
        (secrets._secrets_manager(), "get_secret_value", secrets.present_secret),
        (secrets._ssm(), "get_parameter", secrets.parameter),
    ):
        with Stubber(client) as stubber:
            stubber.add_client_error(operation, code, http_status_code=status)
            with pytest.raises(Unavailable):
                read("any")


@mock_aws
def test_reads_the_present_value_of_a_secret_that_changes() -> None:
    client = boto3.client("secretsmanager")
    client.create_secret(Name="keys", SecretString="old")
    assert secrets.present_secret("keys") == "old"

    client.put_secret_value(SecretId="keys", SecretString="new")

    assert secrets.present_secret("keys") == "new"


@mock_aws
def test_reads_a_parameter_each_time() -> None:
    client = boto3.client("ssm")
    client.put_parameter(Name="/p", Value="one", Type="String")
    assert secrets.parameter("/p") == "one"

    client.put_parameter(Name="/p", Value="two", Type="String", Overwrite=True)

    assert secrets.parameter("/p") == "two"


def test_an_unreachable_service_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the discard port: refused

    with pytest.raises(Unavailable):
        secrets.secret_string("any")
    with pytest.raises(Unavailable):
        secrets.parameter("/any")
