"""The end of a text file, without reading the whole of it."""

import os
from pathlib import Path

WINDOW_BYTES = 256_000


def tail(file: Path, lines: int) -> str:
    """Return the last `lines` lines, at most the last 256 kB; empty where there is no file."""
    try:
        with file.open("rb") as source:
            size = source.seek(0, os.SEEK_END)
            source.seek(max(0, size - WINDOW_BYTES))
            text = source.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
