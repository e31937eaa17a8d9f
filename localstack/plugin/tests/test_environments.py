from pathlib import Path

from process_cloud import lambda_environment, task_environment
from process_cloud.images import Image
from process_cloud.interpreters import Interpreter
from process_cloud.lambda_environment import FunctionFiles

PYTHON = Interpreter("3.12", Path("/py/bin"))
FILES = FunctionFiles(Path("/task"), Path("/opt"), Path("/ric"), Path("/private"))
IMAGE = Image(Path("/image"), "3.12", "app", {"PYTHONPATH": "app:deps", "MODE": "a"}, (), ())


def function(offered: dict[str, object], own: dict[str, str]) -> dict[str, str]:
    return lambda_environment.build(
        offered, own, files=FILES, interpreter=PYTHON, runtime_api="127.0.0.1:1"
    )


def test_a_function_gets_no_more_of_localstack_than_aws_documents() -> None:
    environment = function(
        {"AWS_REGION": "r", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": 128, "LOCALSTACK_HOSTNAME": "h"},
        {"OWN": "1"},
    )
    assert environment["AWS_REGION"] == "r"
    assert environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "128"
    assert environment["OWN"] == "1"
    assert "LOCALSTACK_HOSTNAME" not in environment


def test_a_function_imports_its_code_before_its_layers_before_the_runtime() -> None:
    environment = function({}, {"PYTHONPATH": "/own"})
    assert environment["PYTHONPATH"] == (
        "/task:/own:/opt/python:/opt/python/lib/python3.12/site-packages:/ric"
    )


def test_a_function_can_set_the_time_zone_but_not_the_runtime_api() -> None:
    environment = function({}, {"TZ": "Europe/Berlin", "AWS_LAMBDA_RUNTIME_API": "x"})
    assert environment["TZ"] == "Europe/Berlin"
    assert environment["AWS_LAMBDA_RUNTIME_API"] == "127.0.0.1:1"
    assert function({}, {})["TZ"] == "UTC"


def test_a_container_overrides_its_image_which_overrides_the_platform() -> None:
    environment = task_environment.build(
        image=IMAGE,
        interpreter=PYTHON,
        private=Path("/private"),
        platform={"AWS_REGION": "r", "MODE": "platform"},
        own={"MODE": "b"},
    )
    assert environment["MODE"] == "b"
    assert environment["AWS_REGION"] == "r"
    assert environment["PYTHONPATH"] == "/image/app:/image/deps"
    assert environment["PATH"].startswith("/py/bin:")
    assert environment["HOME"] == "/private"
