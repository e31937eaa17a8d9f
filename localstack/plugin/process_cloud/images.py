"""Process images: zip files in S3 that hold what a container image would.

A container whose `image` is `s3://bucket/key.zip` runs from the unzipped file. At its root lies
`image.json`:

    {"python": "3.11", "working_dir": "app", "env": {"PYTHONPATH": "app:deps"},
     "entrypoint": [], "command": ["python", "-m", "booking.server"]}

`python` is the interpreter's version; `working_dir` and the entries of PYTHONPATH are relative to
the image's root; everything but `python` may be left out.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

LOG = logging.getLogger(__name__)

UNUSED_LIMIT_S = 7 * 24 * 3600  # an image that nobody started for so long is removed
DESCRIPTION = "image.json"


class ImageError(Exception):
    """The image can't be had; the message is a task's stopped reason."""

    def __init__(self, image: str, why: str) -> None:
        super().__init__(f"CannotPullContainerError: {image}: {why}")


@dataclass(frozen=True)
class Image:
    """An unzipped process image."""

    root: Path
    python: str
    working_dir: str
    environment: Mapping[str, str]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]

    @property
    def working_directory(self) -> Path:
        """Return the absolute working directory."""
        return self.root / self.working_dir

    def resolved_environment(self) -> dict[str, str]:
        """Return the image's variables, PYTHONPATH made absolute."""
        environment = dict(self.environment)
        if python_path := environment.get("PYTHONPATH"):
            entries = python_path.split(":")
            environment["PYTHONPATH"] = ":".join(str(self.root / entry) for entry in entries)
        return environment

    def argv(self, entry_point: list[str] | None, command: list[str] | None) -> list[str]:
        """Return what to run; as in Docker, another entry point drops the image's command."""
        if entry_point:
            return [*entry_point, *(command or [])]
        return [*self.entrypoint, *(command or self.command)]


def parse_location(image: str) -> tuple[str, str]:
    """Return bucket and key of `s3://bucket/key.zip`."""
    bucket, _, key = image.removeprefix("s3://").partition("/")
    if not image.startswith("s3://") or not bucket or not key:
        why = "not a process image of the form s3://bucket/key.zip"
        raise ImageError(image, why)
    return bucket, key


def parse_description(text: str, root: Path) -> Image:
    """Read an image.json; raise ValueError if it is not of the documented form."""
    description = json.loads(text)
    python = description.get("python") if isinstance(description, dict) else None
    if not isinstance(python, str):
        msg = f'{DESCRIPTION} must be an object with "python"'
        raise ValueError(msg)  # noqa: TRY004 - a bad value in a document
    return Image(
        root=root,
        python=python,
        working_dir=str(description.get("working_dir", ".")),
        environment={str(k): str(v) for k, v in description.get("env", {}).items()},
        entrypoint=tuple(map(str, description.get("entrypoint", []))),
        command=tuple(map(str, description.get("command", []))),
    )


class ImageStore:
    """Pulls images, each content once, and keeps them from run to run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        directory.mkdir(parents=True, exist_ok=True)
        self._prune()

    def pull(self, image: str, s3: Any) -> Image:
        """Return the image at `s3://bucket/key.zip`; raise ImageError."""
        bucket, key = parse_location(image)
        try:
            etag = s3.head_object(Bucket=bucket, Key=key)["ETag"]
            name = hashlib.sha256(f"{bucket}/{key}/{etag}".encode()).hexdigest()[:32]
            root = self._directory / name
            with self._locks[name]:
                if not root.exists():
                    self._unzip(s3, bucket, key, root)
            os.utime(root)
            return parse_description((root / DESCRIPTION).read_text(), root)
        except (ClientError, BotoCoreError, OSError, zipfile.BadZipFile, ValueError) as error:
            raise ImageError(image, str(error)) from error

    def _unzip(self, s3: Any, bucket: str, key: str, root: Path) -> None:
        part = Path(tempfile.mkdtemp(prefix="part-", dir=self._directory))
        try:
            with tempfile.TemporaryFile(dir=part) as file:
                s3.download_fileobj(Bucket=bucket, Key=key, Fileobj=file)
                with zipfile.ZipFile(file) as archive:
                    archive.extractall(part / "image")
            (part / "image").rename(root)
        finally:
            shutil.rmtree(part)

    def _prune(self) -> None:
        oldest = time.time() - UNUSED_LIMIT_S
        for entry in self._directory.iterdir():
            if entry.name.startswith("part-") or entry.stat().st_mtime < oldest:
                LOG.info("Removing the unused image %s", entry.name)
                shutil.rmtree(entry)
