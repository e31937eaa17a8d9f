"""Files that only their owner reads."""

import os
from pathlib import Path


def write_private(file: Path, text: str) -> None:
    """Put `text` into `file`, mode 600, whole or not at all."""
    partial = file.with_name(f"{file.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as output:
        output.write(text)
        output.flush()
        os.fsync(descriptor)
    partial.replace(file)
