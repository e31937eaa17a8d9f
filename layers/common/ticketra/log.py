"""Structured logs: JSON lines, one logger for each process, the request id in every line."""

import json
import os
from typing import Any

from aws_lambda_powertools import Logger


def _encoded(line: dict[str, Any]) -> str:
    """Return a line as JSON that can be written: what is no character in UTF-8 is escaped."""
    text = json.dumps(line, default=str, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace").decode()


logger = Logger(
    service=os.environ.get("POWERTOOLS_SERVICE_NAME", "ticketra"),
    level=os.environ.get("LOG_LEVEL", "INFO"),
    json_serializer=_encoded,
    utc=True,
)
