"""Compile every requirements lock again; pins are kept unless --upgrade is given."""

import shutil
import subprocess
import sys

from setup.interpreter import SUPPORTED_VERSIONS
from supervisor.settings import ENVIRONMENTS, REPOSITORY

# What is deployed follows the project's own lock, so that tests run what production runs.
_ALONE = (
    "requirements-dev",
    "localstack/emulator/requirements",
    "localstack/lambda_runtime/requirements",
    "localstack/mongodb/requirements",
    "localstack/setup/uv",
)
_CONSTRAINT = "requirements-dev.txt"


def _compile(name: str, *options: str) -> None:
    command = [
        *(str(ENVIRONMENTS / "uv" / "bin" / "uv"), "pip", "compile", "--quiet"),
        *("--universal", "--python-version", SUPPORTED_VERSIONS[0], "--generate-hashes"),
        *("--no-annotate", "--custom-compile-command", "make lock"),
        *(f"{name}.in", *options, "-o", f"{name}.txt"),
    ]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    print(f"  {name}.txt")


def main(options: list[str]) -> int:
    """Compile all locks; `options` may hold --upgrade."""
    for name in _ALONE:
        _compile(name, *options)
    deployed = (REPOSITORY / "layers/vendor", *sorted((REPOSITORY / "functions").iterdir()))
    for directory in deployed:
        if (directory / "requirements.in").exists():
            name = str(directory.relative_to(REPOSITORY) / "requirements")
            _compile(name, "-c", _CONSTRAINT, *options)
    npm = shutil.which("npm")
    if npm is None:
        print("Install npm.", file=sys.stderr)
        return 1
    subprocess.run([npm, "install", "--package-lock-only", "--silent"], cwd=REPOSITORY, check=True)
    print("  package-lock.json")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} failed; the other locks are as they were.")
