"""What a line of the log looks like."""

import json
import logging

from ticketra.log import logger


def formatted(message: str, error: Exception | None = None) -> str:
    exc_info = None if error is None else (type(error), error, None)
    record = logging.LogRecord("test", logging.ERROR, __file__, 1, message, None, exc_info)
    formatter = logger.registered_formatter
    return formatter.format(record)


def test_a_line_keeps_its_letters() -> None:
    assert "Zürich 🎫" in formatted("Zürich 🎫")


def test_whatever_an_error_says_can_be_written() -> None:
    line = formatted("failed", RuntimeError("\ud800"))
    assert json.loads(line.encode())["exception"] == "RuntimeError: \ud800"
