"""How the demo prints: one request and its answer in two short lines."""

import json
import os
import sys
from typing import Any

LINE_LIMIT = 200
SHORT_STRING = 44
_HIDDEN = {"password", "token", "refresh_token"}


def headline(text: str) -> None:
    """Print the title of a step."""
    print(f"\n{_styled(text, '1')}", flush=True)


def note(text: str) -> None:
    """Print a remark below a request."""
    print(f"     {_styled(text, '2')}", flush=True)


def request(method: str, path: str, body: dict[str, Any] | None) -> None:
    """Print what is asked."""
    shown = f"  {_styled(method, '36')} {path}"
    print(f"{shown}  {compact(body)}" if body is not None else shown, flush=True)


def answer(status: int, seconds: float, body: Any) -> None:
    """Print what came back."""
    colour = "32" if status < 400 else "33"
    print(f"     {_styled(str(status), colour)} in {seconds:.2f} s  {compact(body)}", flush=True)


def compact(body: Any) -> str:
    """Return `body` as one short line: secrets hidden, long strings and empty fields left out."""
    if isinstance(body, dict):
        body = {key: _shown(key, value) for key, value in body.items() if value not in (None, "")}
    text = json.dumps(body, ensure_ascii=False)
    return text if len(text) <= LINE_LIMIT else f"{text[: LINE_LIMIT - 1]}…"


def _shown(key: str, value: Any) -> Any:
    if key in _HIDDEN and isinstance(value, str):
        return "…"
    if isinstance(value, str) and len(value) > SHORT_STRING:
        return f"{value[: SHORT_STRING - 1]}…"
    return value


def _styled(text: str, code: str) -> str:
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return f"\033[{code}m{text}\033[0m"
