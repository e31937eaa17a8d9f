"""Python interpreters for functions and tasks.

Each version gets a bare virtual environment (a `pyvenv.cfg` and links, nothing installed), so that
neither LocalStack's packages nor the host's are importable, whoever starts `python`.
"""

import os
import shutil
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROBE_TIMEOUT_S = 20
_PROBE = "import sys; print('%d.%d' % sys.version_info[:2]); print(sys._base_executable)"


class InterpreterMissingError(Exception):
    """No working interpreter of the wanted version; the message says how to give one."""


@dataclass(frozen=True)
class Interpreter:
    """A bare environment of one Python version."""

    version: str
    bin_dir: Path

    @property
    def executable(self) -> Path:
        """Return the path of `python`."""
        return self.bin_dir / "python"


class Interpreters:
    """Finds the host's interpreters and makes a bare environment for each version once."""

    def __init__(self, directory: Path, configured: Mapping[str, str]) -> None:
        self._directory = directory
        self._configured = configured
        self._known: dict[str, Interpreter] = {}
        self._lock = threading.Lock()

    def get(self, version: str) -> Interpreter:
        """Return the interpreter of `version` ("3.12"); raise InterpreterMissingError."""
        with self._lock:
            if version not in self._known:
                self._known[version] = self._make(version, self._find(version))
            return self._known[version]

    def _find(self, version: str) -> Path:
        variable = f"LAMBDA_PROCESS_PYTHON{version.replace('.', '_')}"
        configured = self._configured.get(version)
        candidates = [configured] if configured else _on_path(f"python{version}")
        for candidate in candidates:
            if base := _base_executable(candidate, version):
                return base
        tried = f" ({configured} is none)" if configured else ""
        msg = (
            f"Python {version} is needed but missing{tried}: "
            f"put python{version} on PATH or set {variable}"
        )
        raise InterpreterMissingError(msg)

    def _make(self, version: str, base: Path) -> Interpreter:
        home = self._directory / f"python{version}"
        bin_dir = home / "bin"
        bin_dir.mkdir(parents=True, exist_ok=True)
        config = f"home = {base.parent}\ninclude-system-site-packages = false\n"
        (home / "pyvenv.cfg").write_text(config)
        for name in ("python", "python3", f"python{version}"):
            link = bin_dir / name
            link.unlink(missing_ok=True)
            link.symlink_to(base)
        return Interpreter(version, bin_dir)


def _on_path(name: str) -> list[str]:
    # Every match, not only the first: a version manager's shim may exist and still not work.
    directories = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return [found for entry in directories if (found := shutil.which(name, path=entry))]


def _base_executable(candidate: str, version: str) -> Path | None:
    """Return the interpreter behind a virtual environment's, if it is of that version."""
    try:
        probe = subprocess.run(
            [candidate, "-I", "-S", "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = probe.stdout.split("\n")
    if probe.returncode or found[0] != version:
        return None
    return Path(found[1]).resolve()
