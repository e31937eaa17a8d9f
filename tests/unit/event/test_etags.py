import pytest

from event.etags import allows_change, entity_tag, is_known


def test_a_tag_changes_with_the_body() -> None:
    tags = {entity_tag(3, 98), entity_tag(3, 97), entity_tag(4, 98), entity_tag(3, None)}

    assert tags == {'"3-98"', '"3-97"', '"4-98"', '"3"'}


@pytest.mark.parametrize(
    ("if_match", "allowed"),
    [
        ('"3-98"', True), ('"3"', True), ('"2", "3-5"', True), (" * ", True), ('"a,b","3"', True),
        ('W/"3-98"', False), ('"2"', False), ("3", False), ("", False), ('"3-"', False),
        ('"33"', False), ('"3-x"', False), ('"\u0663"', False), ('"3', False), ('"*"', False),
        ('"' + "3" * 900 + '"', False),
    ],
)  # fmt: skip
def test_a_change_needs_the_version(if_match: str, *, allowed: bool) -> None:
    assert allows_change(if_match, 3) is allowed


@pytest.mark.parametrize(
    ("if_none_match", "known"),
    [
        ('"3-98"', True), ('W/"3-98"', True), ('"1", W/"3-98"', True), ("*", True),
        ('"3"', False), ('"3-97"', False), ("3-98", False), ("", False),
    ],
)  # fmt: skip
def test_a_body_is_known_by_its_whole_tag(if_none_match: str, *, known: bool) -> None:
    assert is_known(if_none_match, '"3-98"') is known
