"""The merged layers of a function version, our `/opt`.

Versions with the same layers share one directory, so that what Python compiled for one of them
(`__pycache__`) is there for all.
"""

import hashlib
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path


class LayerStore:
    """Merges layers on first use and removes them with their last user."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._users: dict[Path, set[str]] = {}
        self._lock = threading.Lock()

    def path(self, layers: Sequence[tuple[str, Path]]) -> Path:
        """Return the directory of these layers, given as (id, unzipped directory) in order."""
        digest = hashlib.sha256("\n".join(layer_id for layer_id, _ in layers).encode())
        return self._directory / digest.hexdigest()[:32]

    def acquire(self, layers: Sequence[tuple[str, Path]], user: str) -> Path:
        """Merge the layers, later ones over earlier ones, and note who uses them."""
        opt = self.path(layers)
        with self._lock:
            if not opt.exists():
                part = opt.with_suffix(".part")
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
                for _, unzipped in layers:
                    shutil.copytree(unzipped, part, dirs_exist_ok=True, copy_function=_link)
                part.rename(opt)
            self._users.setdefault(opt, set()).add(user)
        return opt

    def release(self, layers: Sequence[tuple[str, Path]], user: str) -> None:
        """Forget a user."""
        opt = self.path(layers)
        with self._lock:
            users = self._users.get(opt, set())
            users.discard(user)
            if not users:
                self._users.pop(opt, None)
                shutil.rmtree(opt, ignore_errors=True)


def _link(source: str, target: str) -> None:
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
