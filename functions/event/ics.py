"""An event as a calendar file (RFC 5545)."""

import re
from collections.abc import Iterator
from datetime import datetime

from event.models import Event

MEDIA_TYPE = "text/calendar"
LINE_LIMIT_OCTETS = 75  # RFC 5545, section 3.1

_STATUS = {"SCHEDULED": "CONFIRMED", "CANCELLED": "CANCELLED"}
_ESCAPED = str.maketrans({"\\": r"\\", ";": r"\;", ",": r"\,", "\n": r"\n"})
_LINE_BREAK = re.compile(r"\r\n?")


def calendar_file(event: Event) -> str:
    """Return a calendar with `event` in it. Calendars that know it take a higher SEQUENCE over."""
    return "".join(f"{part}\r\n" for line in _lines(event) for part in _folded(line))


def _lines(event: Event) -> Iterator[str]:
    yield "BEGIN:VCALENDAR"
    yield "VERSION:2.0"
    yield "PRODID:-//Ticketra//Events//EN"
    yield "BEGIN:VEVENT"
    yield f"UID:{event.id}@ticketra"
    yield f"DTSTAMP:{_time(event.updated_at)}"
    yield f"CREATED:{_time(event.created_at)}"
    yield f"LAST-MODIFIED:{_time(event.updated_at)}"
    yield f"SEQUENCE:{event.version}"
    yield f"STATUS:{_STATUS[event.status]}"
    yield f"DTSTART:{_time(event.date)}"
    yield f"SUMMARY:{_text(event.title)}"
    yield f"LOCATION:{_text(event.location)}"
    if event.category is not None:
        yield f"CATEGORIES:{_text(event.category)}"
    if event.description is not None:
        yield f"DESCRIPTION:{_text(event.description)}"
    yield "END:VEVENT"
    yield "END:VCALENDAR"


def _time(moment: datetime) -> str:
    return f"{moment:%Y%m%dT%H%M%SZ}"


def _text(value: str) -> str:
    return _LINE_BREAK.sub("\n", value).translate(_ESCAPED)


def _folded(line: str) -> Iterator[str]:
    """Yield `line` in parts of at most LINE_LIMIT_OCTETS; no character is cut in two."""
    part, octets = "", 0
    for character in line:
        size = len(character.encode())
        if octets + size > LINE_LIMIT_OCTETS:
            yield part
            part, octets = " ", 1
        part += character
        octets += size
    yield part
