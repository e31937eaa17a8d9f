"""What is known of a message in the dead-letter queue, as text. No I/O.

Anybody who reaches the broker may have put a message there: nothing about it is taken for granted,
and nothing of it reaches a terminal that is not printable.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import pika

from payment.models import BODY_LIMIT_BYTES, read_request_id
from ticketra import messages
from ticketra.ids import minted_at

WORK_QUEUES = frozenset({messages.CHARGE_QUEUE, messages.REFUND_QUEUE})
TEXT_LIMIT_CHARS = 300
HEX_BYTES_A_LINE = 32
EVERY = "all"  # stands for every dead letter, so none has this name

_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_NONE = "-"


class DeadLetter(NamedTuple):
    """A message in the dead-letter queue."""

    properties: pika.BasicProperties
    body: bytes

    @property
    def headers(self) -> Mapping[str, Any]:
        """What travels beside the body."""
        return self.properties.headers or {}

    @property
    def name(self) -> str:
        """Its dead-letter id; one that has none has a name made of its content."""
        given = self.headers.get(messages.DEAD_LETTER_ID_HEADER)
        if isinstance(given, str) and _NAME.fullmatch(given) and given != EVERY:
            return given
        content = (self.properties.message_id, self.queue)
        digest = hashlib.sha256(repr(content).encode() + b"\0" + self.body).hexdigest()
        return f"sha256-{digest[:16]}"

    @property
    def queue(self) -> str | None:
        """The work queue that it came from; None if it names none that there is."""
        queue = self.headers.get(messages.QUEUE_HEADER)
        return queue if isinstance(queue, str) and queue in WORK_QUEUES else None

    @property
    def set_aside_at(self) -> datetime | None:
        """When it came to the dead-letter queue, if its dead-letter id says so (UUIDv7)."""
        try:
            return minted_at(UUID(self.name))
        except ValueError:
            return None


def line(letter: DeadLetter) -> str:
    """Return a line about a dead letter: its name first, why it is there last."""
    headers, at = letter.headers, letter.set_aside_at
    return "  ".join(
        (
            letter.name,
            at.strftime("%Y-%m-%dT%H:%M:%SZ") if at else _NONE,
            f"from {_plain(headers.get(messages.QUEUE_HEADER))}",
            f"attempts {_plain(headers.get(messages.ATTEMPT_HEADER))}",
            f"message {_plain(letter.properties.message_id)}",
            f"request {read_request_id(letter.body) or _NONE}",
            _plain(headers.get(messages.REASON_HEADER, headers.get(messages.UNREADABLE_HEADER))),
        )
    )


def full_text(letter: DeadLetter) -> str:
    """Return all of a dead letter: its line, its properties and headers, and its body."""
    properties = letter.properties
    named = {
        "content-type": properties.content_type,
        "type": properties.type,
        **dict(sorted(letter.headers.items(), key=lambda header: _plain(header[0]))),
    }
    about = [f"{_plain(name)}: {_plain(value)}" for name, value in named.items()]
    return "\n".join((line(letter), *about, "", _body(letter.body), ""))


def _body(body: bytes) -> str:
    """Return a body as indented JSON, as text, or in hexadecimal digits, whatever it can be."""
    shown = body[:BODY_LIMIT_BYTES]
    note = "" if shown == body else f"\n({len(body)} bytes, of which these are the first)"
    return (_as_json(shown) or _as_text(shown) or _as_hex(shown)) + note


def _as_json(body: bytes) -> str:
    try:
        return json.dumps(json.loads(body), indent=2)
    except (ValueError, RecursionError):
        return ""


def _as_text(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return ""
    return text if all(part.isprintable() for part in re.split(r"[\n\t]", text)) else ""


def _as_hex(body: bytes) -> str:
    starts = range(0, len(body), HEX_BYTES_A_LINE)
    return "\n".join(body[start : start + HEX_BYTES_A_LINE].hex(" ") for start in starts)


def _plain(value: object) -> str:
    """Return a value as one printable line of at most TEXT_LIMIT_CHARS."""
    if value is None or value == "":
        return _NONE
    try:
        text = str(value)
    except RecursionError:  # tables in tables, deeper than can be shown
        return "?"
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    return text if len(text) <= TEXT_LIMIT_CHARS else f"{text[:TEXT_LIMIT_CHARS]}…"
