"""The generated gRPC stubs are those of the contract; `make proto` generates them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CONTRACT = "ticketra/booking/v1/booking.proto"
STUBS = ["booking_pb2.py", "booking_pb2.pyi", "booking_pb2_grpc.py", "booking_pb2_grpc.pyi"]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("stubs")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto")]
    command += [f"--python_out={target}", f"--grpc_python_out={target}"]
    command += [f"--mypy_out=quiet:{target}", f"--mypy_grpc_out=quiet:{target}", CONTRACT]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})
    return target / "ticketra" / "booking" / "v1"


@pytest.mark.parametrize("name", STUBS)
def test_a_stub_is_as_generated(generated: Path, name: str) -> None:
    committed = ROOT / "layers" / "common" / "ticketra" / "booking" / "v1" / name
    assert committed.read_text() == (generated / name).read_text(), "run 'make proto'"
