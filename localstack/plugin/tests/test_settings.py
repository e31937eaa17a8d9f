from pathlib import Path

import pytest

from process_cloud.api_port import without_origin
from process_cloud.settings import ApiRoute, Settings, parse_api_port_routes


def test_defaults() -> None:
    assert Settings.from_environment({}) == Settings()


def test_everything_can_be_set() -> None:
    settings = Settings.from_environment(
        {
            "LAMBDA_PROCESS_MAX_ENVIRONMENTS": "3",
            "LAMBDA_PROCESS_QUEUE_LIMIT": "0",
            "LAMBDA_PROCESS_QUEUE_WAIT_S": "1.5",
            "LAMBDA_PROCESS_RIC_DIR": "/ric",
            "LAMBDA_PROCESS_PYTHON3_12": "/usr/bin/python3.12",
            "API_PORT_ROUTES": "3000=ticketra/local",
        }
    )
    assert settings == Settings(
        environments_limit=3,
        queue_limit=0,
        queue_wait_s=1.5,
        runtime_client_dir=Path("/ric"),
        interpreters={"3.12": "/usr/bin/python3.12"},
        api_port_routes={3000: ApiRoute("ticketra", "local")},
    )


@pytest.mark.parametrize(
    "variable", ["LAMBDA_PROCESS_MAX_ENVIRONMENTS", "LAMBDA_PROCESS_QUEUE_WAIT_S"]
)
@pytest.mark.parametrize("value", ["many", "-1"])
def test_a_bad_number_names_its_variable(variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=variable):
        Settings.from_environment({variable: value})


def test_no_environments_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        Settings.from_environment({"LAMBDA_PROCESS_MAX_ENVIRONMENTS": "0"})


def test_several_api_ports() -> None:
    assert parse_api_port_routes("1=a/b, 2=c/d,") == {1: ApiRoute("a", "b"), 2: ApiRoute("c", "d")}


@pytest.mark.parametrize("value", ["3000", "x=a/b", "3000=a", "3000=/b", "3000=a/b/c"])
def test_a_bad_route_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="port=api-id/stage"):
        parse_api_port_routes(value)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a%2Fb?x=1", "/a%2Fb?x=1"),
        ("//a", "//a"),
        ("http://host:1/a?x=http://b/c", "/a?x=http://b/c"),
        ("http://host", "/"),
    ],
)
def test_request_targets(uri: str, expected: str) -> None:
    assert without_origin(uri) == expected
