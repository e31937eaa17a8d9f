"""Debian packages: which of them are missing, and how to get the right to install them."""

import ctypes.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setup.commands import Commands
from setup.interpreter import Interpreter, MissingPrerequisiteError
from supervisor.settings import Settings

_INSTALLER = Path(__file__).with_name("install-packages.sh")


def missing(settings: Settings, python: Interpreter) -> list[str]:
    """Return the packages to install: none for servers that run elsewhere."""
    packages = []
    if not settings.postgres_url and not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        packages.append("postgresql")
    if not settings.redis_url and shutil.which("redis-server") is None:
        packages.append("redis-server")
    if not settings.rabbitmq_url and not Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists():
        packages.append("rabbitmq-server")
    if shutil.which("curl") is None:
        packages.append("curl")
    if not settings.mongodb_url and ctypes.util.find_library("curl") is None:
        packages.append("libcurl4")  # mongod is linked against it
    if not python.makes_environments:
        packages.append(_venv_package(python))
    return packages


def _venv_package(python: Interpreter) -> str:
    if not python.path.startswith("/usr/bin/"):
        raise MissingPrerequisiteError(
            f"{python.path} lacks the modules venv and ensurepip; install it with them."
        )
    return f"python{python.version}-venv"


def become_root(packages: list[str]) -> list[str]:
    """Return the words to put before a command so that it runs as root; may ask for a password.

    Raises:
        MissingPrerequisiteError: apt-get or the right to use it is missing.

    """
    by_hand = f"apt-get install {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise MissingPrerequisiteError(
            f"Only Debian and Ubuntu are known here; install {' '.join(packages)} by hand."
        )
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is None:
        raise MissingPrerequisiteError(f"Run this once as root: {by_hand}.")
    if subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0:
        return [sudo, "-n"]
    if sys.stdin.isatty():
        print(f"Installing {' '.join(packages)} needs sudo.", flush=True)
        if subprocess.run([sudo, "-v"], check=False).returncode == 0:
            return [sudo, "-n"]
    raise MissingPrerequisiteError(f"Run this once as root: {by_hand}.")


def install(commands: Commands, prefix: list[str], packages: list[str]) -> None:
    """Install `packages`, leaving the machine's services as they are."""
    commands.run("packages", [*prefix, "/bin/sh", _INSTALLER, *packages], survives=True)
