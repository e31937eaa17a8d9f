"""The list of an event's void tickets that its doors take along: their ids, one a line.

A last line says which event and moment it is of, and how many there were. Without it, a list that
broke off (the database went away, the disk was full) would be one of fewer void tickets.
"""

import re
from collections.abc import Iterable
from datetime import datetime

SHOWN_LIMIT = 60  # characters of a wrong line

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_END = re.compile(r"# end: (?P<count>[0-9]+) void, event (?P<event_id>\S+), at \S+")


def end_line(count: int, event_id: str, listed_at: datetime) -> str:
    """Return the last line of a list of `count` ids, which was true at `listed_at`."""
    return f"# end: {count} void, event {event_id}, at {listed_at.isoformat(timespec='seconds')}"


def read(lines: Iterable[str], event_id: str | None = None) -> frozenset[str]:
    """Return the ids in a list, or in several that follow each other.

    Raises:
        ValueError: it is no such list, a part is missing, or none of it is of `event_id`.

    """
    ids: set[str] = set()
    events: set[str] = set()
    count = 0
    for number, line in enumerate(map(str.strip, lines), start=1):
        if end := _END.fullmatch(line):
            if int(end["count"]) != count:
                raise ValueError(f"{end['count']} ids should stand above line {number}, {count} do")
            events.add(end["event_id"])
            count = 0
        elif _ID.fullmatch(line):
            ids.add(line)
            count += 1
        else:
            raise ValueError(f"line {number} is no ticket's id: {line[:SHOWN_LIMIT]}")
    if count or not events:
        raise ValueError("the list breaks off, its last line is missing")
    if event_id not in {None, *events}:
        raise ValueError(f"this is the list of event {', '.join(sorted(events))}")
    return frozenset(ids)
