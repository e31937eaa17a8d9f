"""A stamp says what an environment was made from; it is written last, so a half-made one has none.

A stamp lies inside the directory that it speaks of and goes with it.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

STAMP_NAME = ".ticketra-stamp"


def digest(files: Iterable[Path], *facts: str) -> str:
    """Return one digest over the contents of `files` and over `facts`."""
    total = hashlib.sha256()
    for fact in facts:
        total.update(hashlib.sha256(fact.encode()).digest())
    for file in sorted(files):
        total.update(hashlib.sha256(file.name.encode()).digest())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def read(directory: Path) -> str | None:
    """Return the stamp of `directory`, None where it has none."""
    try:
        return (directory / STAMP_NAME).read_text()
    except FileNotFoundError:
        return None


def write(directory: Path, value: str) -> None:
    """Mark `directory` as whole and made from `value`."""
    partial = directory / f"{STAMP_NAME}.partial"
    partial.write_text(value)
    partial.replace(directory / STAMP_NAME)


def remove(directory: Path) -> None:
    """Mark `directory` as not whole."""
    (directory / STAMP_NAME).unlink(missing_ok=True)
