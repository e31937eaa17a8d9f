"""Which Python the project's environments are made with."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

SUPPORTED_VERSIONS = ("3.11", "3.12", "3.13")
PROBE_TIMEOUT_S = 20

_PROBE = """
import importlib.util, json, os, sys
print(json.dumps({
    "path": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "version": "%d.%d" % sys.version_info[:2],
    "full_version": sys.version,
    "makes_environments": all(importlib.util.find_spec(m) for m in ("venv", "ensurepip")),
}))
"""


class MissingPrerequisiteError(Exception):
    """Something has to be installed by the user; the message is the one sentence that says what."""


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A Python to make environments with; `version` is like `3.11`."""

    path: str
    version: str
    full_version: str
    makes_environments: bool


def probe(command: str) -> Interpreter | None:
    """Ask the interpreter `command` what it is; None where it does not run."""
    try:
        # -P would be unknown to an interpreter that is too old, and -I exists in all.
        answer = subprocess.run(
            [command, "-I", "-c", _PROBE], capture_output=True, check=True, timeout=PROBE_TIMEOUT_S
        ).stdout
        return Interpreter(**json.loads(answer))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def choose() -> Interpreter:
    """Return the running Python where it is supported, else the newest supported one on PATH.

    Raises:
        MissingPrerequisiteError: there is none, or the one that `PYTHON` names will not do.

    """
    named = os.environ.get("PYTHON")
    if named:
        found = probe(named)
        if found is None or found.version not in SUPPORTED_VERSIONS:
            raise MissingPrerequisiteError(
                f"PYTHON={named} is not a working Python {SUPPORTED_VERSIONS[0]} to "
                f"{SUPPORTED_VERSIONS[-1]}; name one that is."
            )
        return found
    on_path = (shutil.which(f"python{version}") for version in reversed(SUPPORTED_VERSIONS))
    for candidate in (sys.executable, *filter(None, on_path)):
        found = probe(candidate)
        if found is not None and found.version in SUPPORTED_VERSIONS:
            return found
    raise MissingPrerequisiteError(
        f"Install Python {SUPPORTED_VERSIONS[0]}, {SUPPORTED_VERSIONS[1]} or "
        f"{SUPPORTED_VERSIONS[2]} (for example: apt-get install python3 python3-venv)."
    )
