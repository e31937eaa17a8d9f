from dataclasses import replace
from datetime import UTC, datetime

import pytest

from event.ics import LINE_LIMIT_OCTETS, calendar_file
from tests.unit.event.fakes import EventFunction
from tests.unit.event.test_sales import EVENT


def _unfolded(text: str) -> list[str]:
    return text.replace("\r\n ", "").split("\r\n")[:-1]


def test_a_calendar_file_holds_the_event() -> None:
    event = replace(
        EVENT,
        title="Rock; pop, jazz \\ more",
        category="music",
        description="One\r\ntwo\nthree\rfour",
        updated_at=datetime(2029, 5, 1, 8, 30, 15, tzinfo=UTC),
    )

    assert _unfolded(calendar_file(event)) == [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        "PRODID:-//Ticketra//Events//EN",
        "BEGIN:VEVENT",
        f"UID:{event.id}@ticketra",
        "DTSTAMP:20290501T083015Z",
        "CREATED:20290101T000000Z",
        "LAST-MODIFIED:20290501T083015Z",
        "SEQUENCE:3",
        "STATUS:CONFIRMED",
        "DTSTART:20300720T210000Z",
        r"SUMMARY:Rock\; pop\, jazz \\ more",
        "LOCATION:Harbiye",
        "CATEGORIES:music",
        r"DESCRIPTION:One\ntwo\nthree\nfour",
        "END:VEVENT",
        "END:VCALENDAR",
    ]


@pytest.mark.parametrize(
    "description", ["x" * 300, "é" * 200, "😀" * 100, "a" + "😀" * 100, "x" * 63]
)
def test_long_lines_are_folded_between_characters(description: str) -> None:
    text = calendar_file(replace(EVENT, description=description))

    lines = text.encode().split(b"\r\n")
    assert max(map(len, lines)) <= LINE_LIMIT_OCTETS
    assert all(line.decode() for line in lines[:-1])
    assert f"DESCRIPTION:{description}" in _unfolded(text)


def test_no_line_can_be_added_to_the_file() -> None:
    text = calendar_file(replace(EVENT, description="x\r\nEND:VCALENDAR\r\nBEGIN:VALARM"))

    assert _unfolded(text).count("END:VCALENDAR") == 1
    assert not any(line.startswith("BEGIN:VALARM") for line in text.split("\r\n"))


def test_it_is_served_as_a_calendar_also_when_cancelled() -> None:
    function = EventFunction()
    event_id = function.create().json()["id"]
    before = function.http.get(f"/api/events/{event_id}/calendar.ics")
    function.delete(event_id)

    after = function.http.get(f"/api/events/{event_id}/calendar.ics")

    assert before.status_code == after.status_code == 200
    assert after.headers["content-type"] == "text/calendar; charset=utf-8"
    assert f"event-{event_id}.ics" in after.headers["content-disposition"]
    assert "SEQUENCE:1\r\nSTATUS:CONFIRMED\r\n" in before.text
    assert "SEQUENCE:2\r\nSTATUS:CANCELLED\r\n" in after.text


def test_there_is_none_of_an_unknown_event() -> None:
    answer = EventFunction().http.get(f"/api/events/{'0' * 24}/calendar.ics")

    assert (answer.status_code, answer.json()["code"]) == (404, "event_not_found")
