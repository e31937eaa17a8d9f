import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticketra.text import WORD_LIMIT_CHARS, WORDS_LIMIT, fold, search_fields, words


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("  Café \t ARENA\n", "cafe arena"),
        ("İSTANBUL", "istanbul"),
        ("\u0131\u015f\u0131k", "isik"),
        ("Straße", "strasse"),
        ("\ufb01n", "fin"),  # a ligature
        ("cafe\u0301", "cafe"),
        ("東京", "東京"),
        ("", ""),
    ],
)
def test_equal_texts_fold_to_the_same(text: str, folded: str) -> None:
    assert fold(text) == folded


@given(st.text())
def test_what_is_folded_stays(text: str) -> None:
    assert fold(fold(text)) == fold(text)


def test_words_are_different_bounded_and_in_order() -> None:
    assert words("Rock, rock & 'roll' -- ROLL") == ["rock", "roll"]
    assert words("?!") == []
    assert words("x" * 100) == ["x" * WORD_LIMIT_CHARS]
    assert words(" ".join(map(str, range(9999)))) == [str(n) for n in range(WORDS_LIMIT)]


def test_an_event_is_found_by_all_its_texts() -> None:
    found = search_fields(title="Gala", location="Zürich ", category=None, description="The gala")

    assert found == {"words": ["gala", "zurich", "the"], "location": "zurich", "category": None}
