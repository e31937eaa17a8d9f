"""What a test's code has logged, as the JSON lines that a log group would get."""

import io
import json
import logging
from typing import Any

import pytest


class Logs:
    """The lines that were logged since it was made."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._stream = io.StringIO()
        for handler in logging.getLogger("ticketra").handlers:
            if isinstance(handler, logging.StreamHandler):
                patch.setattr(handler, "stream", self._stream)

    def lines(self, level: str | None = None) -> list[dict[str, Any]]:
        """Return the lines, of one level or of all."""
        lines = [json.loads(line) for line in self._stream.getvalue().splitlines()]
        return [line for line in lines if level in {None, line["level"]}]
