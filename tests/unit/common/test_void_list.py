"""Only a whole list of void tickets is one: with less of it, a door would let too many in."""

from datetime import UTC, datetime

import pytest

from ticketra.void_list import end_line, read

IDS = [f"01a202df-ddf1-7443-a8d7-4eee6a943d8{digit}" for digit in "9ab"]
LISTED_AT = datetime(2030, 7, 20, 18, 30, 15, 250_000, tzinfo=UTC)
END = end_line(3, "6b02c8aa", LISTED_AT)
WHOLE = [*IDS, END]


def test_the_last_line_says_what_the_list_is() -> None:
    assert END == "# end: 3 void, event 6b02c8aa, at 2030-07-20T18:30:15+00:00"


def test_a_whole_list_has_all_that_is_in_it() -> None:
    assert read(WHOLE) == read(WHOLE, "6b02c8aa") == set(IDS)
    assert read(f"{line}\r\n" for line in WHOLE) == set(IDS)


def test_an_event_without_void_tickets_has_a_list_too() -> None:
    assert read([end_line(0, "6b02c8aa", LISTED_AT)], "6b02c8aa") == set()


def test_lists_of_several_events_may_follow_each_other() -> None:
    both = [*IDS[:1], end_line(1, "a", LISTED_AT), *IDS[1:], end_line(2, "b", LISTED_AT)]
    assert read(both, "a") == read(both, "b") == set(IDS)


@pytest.mark.parametrize("kept", range(4))
def test_a_list_that_broke_off_is_none(kept: int) -> None:
    with pytest.raises(ValueError, match="breaks off"):
        read(WHOLE[:kept])


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (WHOLE[1:], "3 ids should stand above line 3, 2 do"),
        ([*IDS, *WHOLE], "3 ids should stand above line 7, 6 do"),
        ([*WHOLE, IDS[0]], "breaks off"),
        ([*IDS[:2], IDS[2][:20]], "line 3 is no ticket's id: 01a202df-ddf1-7443-a"),
        ([*IDS, END[:20]], "line 4 is no ticket's id: # end: 3 void, event"),
        (["make: Entering directory '/srv'", *WHOLE], "line 1 is no ticket's id: make: Entering"),
        (['{"keys": []}'], "line 1 is no ticket's id"),
        (["x" * 1_000], f"line 1 is no ticket's id: {'x' * 60}$"),
    ],
)
def test_anything_else_is_none(lines: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read(lines)


def test_the_list_of_another_event_is_none() -> None:
    with pytest.raises(ValueError, match="this is the list of event 6b02c8aa"):
        read(WHOLE, "6b02c8ab")
