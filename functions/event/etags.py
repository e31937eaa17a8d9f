"""Entity tags of events (RFC 9110, sections 8.8.3 and 13.1).

A tag is the event's version and, after a dash, the tickets left, where those are known: the body
shows both, and a strong tag changes with the body. A change is conditional on the version alone:
tickets being sold must not keep an organizer from changing the event.
"""

import re

HEADER_LIMIT_CHARS = 1_000

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_OURS = re.compile(r"(\d{1,18})(?:-\d{1,18})?", re.ASCII)


def entity_tag(version: int, available_tickets: int | None) -> str:
    """Return the tag of a body."""
    left = "" if available_tickets is None else f"-{available_tickets}"
    return f'"{version}{left}"'


def allows_change(if_match: str, version: int) -> bool:
    """Return whether If-Match names `version`; a weak tag never does."""
    if if_match.strip() == "*":
        return True
    strong = [tag for weak, tag in _TAG.findall(if_match) if not weak]
    named = [ours for ours in map(_OURS.fullmatch, strong) if ours]
    return any(int(ours[1]) == version for ours in named)


def is_known(if_none_match: str, tag: str) -> bool:
    """Return whether If-None-Match names `tag`; weak and strong ones alike."""
    if if_none_match.strip() == "*":
        return True
    return any(f'"{known}"' == tag for _, known in _TAG.findall(if_none_match))
