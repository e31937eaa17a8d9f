"""Text as people compare it: without case, accents and surplus spaces."""

import re
import unicodedata
from typing import TypedDict

WORDS_LIMIT = 500  # of one event; further ones cannot be searched for
WORD_LIMIT_CHARS = 40

_WORD = re.compile(r"\w+")
_DOTLESS = str.maketrans({"\N{LATIN SMALL LETTER DOTLESS I}": "i"})  # in Turkish people type both


class SearchFields(TypedDict):
    """What an event is found by."""

    words: list[str]
    location: str
    category: str | None


def fold(text: str) -> str:
    """Return the form in which equal texts are the same: " Café  ARENA" is "cafe arena"."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    return " ".join(bare.casefold().translate(_DOTLESS).split())


def words(text: str) -> list[str]:
    """Return the different words of `text`, folded; punctuation only separates them."""
    found = (word[:WORD_LIMIT_CHARS] for word in _WORD.findall(fold(text)))
    return list(dict.fromkeys(found))[:WORDS_LIMIT]


def search_fields(
    *, title: str, location: str, category: str | None, description: str | None
) -> SearchFields:
    """Return what an event with these texts is found by; the title's words come first."""
    return {
        "words": words(" ".join([title, location, category or "", description or ""])),
        "location": fold(location),
        "category": None if category is None else fold(category),
    }
