import boto3
import pytest
from moto import mock_aws

from process_cloud.secret_values import SecretError, SecretReference, parse_reference, resolve

SECRET = "arn:aws:secretsmanager:us-east-1:000000000000:secret:db/admin-AbC123"


class Clients:
    def __init__(self) -> None:
        settings = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        self.secretsmanager = boto3.client("secretsmanager", region_name="us-east-1", **settings)
        self.ssm = boto3.client("ssm", region_name="us-east-1", **settings)


@pytest.fixture
def clients():
    with mock_aws():
        yield Clients()


@pytest.mark.parametrize(
    ("value_from", "expected"),
    [
        (SECRET, SecretReference("secretsmanager", SECRET)),
        (f"{SECRET}:password::", SecretReference("secretsmanager", SECRET, "password")),
        (f"{SECRET}::AWSPREVIOUS:", SecretReference("secretsmanager", SECRET, "", "AWSPREVIOUS")),
        (f"{SECRET}:k::v1", SecretReference("secretsmanager", SECRET, "k", "", "v1")),
        (
            "arn:aws:ssm:us-east-1:000000000000:parameter/a/b",
            SecretReference("ssm", "arn:aws:ssm:us-east-1:000000000000:parameter/a/b"),
        ),
        ("a/b", SecretReference("", "a/b")),
    ],
)
def test_references(value_from: str, expected: SecretReference) -> None:
    assert parse_reference(value_from) == expected


@pytest.mark.parametrize("value_from", ["arn:aws:s3:::bucket", f"{SECRET}:password", "arn:"])
def test_what_is_no_reference_is_refused(value_from: str) -> None:
    with pytest.raises(SecretError, match="ResourceInitializationError"):
        parse_reference(value_from)


def test_a_whole_secret_one_key_and_an_older_version(clients: Clients) -> None:
    arn = clients.secretsmanager.create_secret(Name="db", SecretString='{"password": "old"}')["ARN"]
    clients.secretsmanager.put_secret_value(SecretId=arn, SecretString='{"password": "new"}')
    assert resolve(arn, clients) == '{"password": "new"}'
    assert resolve(f"{arn}:password::", clients) == "new"
    assert resolve(f"{arn}:password:AWSPREVIOUS:", clients) == "old"


@pytest.mark.parametrize("name", ["/app/url", "url"])
def test_a_parameter_by_arn_and_by_name(clients: Clients, name: str) -> None:
    clients.ssm.put_parameter(Name=name, Value="x", Type="SecureString")
    arn = clients.ssm.get_parameter(Name=name)["Parameter"]["ARN"]
    assert resolve(arn, clients) == "x"
    assert resolve(name, clients) == "x"


def test_a_name_that_is_no_parameter_is_a_secret(clients: Clients) -> None:
    clients.secretsmanager.create_secret(Name="app/key", SecretString="s")
    assert resolve("app/key", clients) == "s"


@pytest.mark.parametrize("suffix", [":missing::", ":password:AWSPENDING:"])
def test_what_is_missing_is_named(clients: Clients, suffix: str) -> None:
    arn = clients.secretsmanager.create_secret(Name="db", SecretString='{"password": "p"}')["ARN"]
    with pytest.raises(SecretError) as caught:
        resolve(arn + suffix, clients)
    assert arn + suffix in str(caught.value)
    assert '"p"' not in str(caught.value)


def test_an_absent_secret_is_named(clients: Clients) -> None:
    with pytest.raises(SecretError, match="db/admin-AbC123"):
        resolve(SECRET, clients)
