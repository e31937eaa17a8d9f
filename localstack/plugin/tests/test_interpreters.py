import os
import subprocess
import sys
from pathlib import Path

import pytest
from local_cloud import PYTHON_VERSION

from process_cloud.interpreters import InterpreterMissingError, Interpreters


def modules_of(executable: Path, code: str, **environment: str) -> str:
    run = subprocess.run(
        [executable, "-P", "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return run.stdout.strip()


def test_nothing_installed_on_the_host_is_importable(tmp_path: Path) -> None:
    interpreter = Interpreters(tmp_path, {PYTHON_VERSION: sys.executable}).get(PYTHON_VERSION)
    code = "import importlib.util as u; print(u.find_spec('localstack'), u.find_spec('pip'))"
    assert modules_of(interpreter.executable, code) == "None None"


def test_the_version_is_the_one_asked_for(tmp_path: Path) -> None:
    interpreter = Interpreters(tmp_path, {PYTHON_VERSION: sys.executable}).get(PYTHON_VERSION)
    assert (
        modules_of(interpreter.executable, "import sys; print(sys.version.split()[0])")
        == (sys.version.split()[0])
    )


def test_a_missing_interpreter_is_named_with_the_variable_to_set(tmp_path: Path) -> None:
    with pytest.raises(InterpreterMissingError, match=r"3\.99.*LAMBDA_PROCESS_PYTHON3_99"):
        Interpreters(tmp_path, {}).get("3.99")


def test_an_interpreter_of_another_version_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(InterpreterMissingError, match=r"Python 3\.99 is needed"):
        Interpreters(tmp_path, {"3.99": sys.executable}).get("3.99")


def test_a_broken_one_on_path_is_passed_over(tmp_path: Path, monkeypatch) -> None:
    """A version manager puts shims on PATH that fail for versions it does not have active."""
    shims = tmp_path / "shims"
    shims.mkdir()
    shim = shims / f"python{PYTHON_VERSION}"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    real = Path(sys.executable).resolve().parent
    monkeypatch.setenv("PATH", f"{shims}{os.pathsep}{real}")
    assert Interpreters(tmp_path / "made", {}).get(PYTHON_VERSION).executable.exists()
