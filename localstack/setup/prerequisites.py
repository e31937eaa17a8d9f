"""What the user brings: checked before anything is changed."""

import platform
import re
import shutil
import subprocess

from setup.interpreter import MissingPrerequisiteError

NODE_MINIMUM_MAJOR = 20
PROBE_TIMEOUT_S = 20
MACHINES = ("x86_64", "aarch64")


def check() -> None:
    """Raise MissingPrerequisiteError for the first thing that is missing."""
    if platform.system() != "Linux" or platform.machine() not in MACHINES:
        raise MissingPrerequisiteError(
            "The local cloud runs on Linux on x86_64 or aarch64; use such a machine."
        )
    for program, package in (("git", "git"), ("setpriv", "util-linux")):
        if shutil.which(program) is None:
            raise MissingPrerequisiteError(f"Install {program}: apt-get install {package}.")
    _check_node()


def _check_node() -> None:
    advice = f"Install Node.js {NODE_MINIMUM_MAJOR} or newer with npm (https://nodejs.org)"
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise MissingPrerequisiteError(f"{advice}: {'node' if node is None else 'npm'} is missing.")
    try:
        answer = subprocess.run(
            [node, "--version"], capture_output=True, text=True, check=True, timeout=PROBE_TIMEOUT_S
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        raise MissingPrerequisiteError(f"{advice}: {node} does not run.") from None
    version = re.match(r"v(\d+)\.", answer)
    if version is None or int(version[1]) < NODE_MINIMUM_MAJOR:
        raise MissingPrerequisiteError(f"{advice}: {node} is {answer}.")
