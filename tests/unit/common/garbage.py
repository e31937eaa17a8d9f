"""Bodies that no honest client sends: hypothesis draws from the ways in which bodies go wrong."""

import json
from typing import Any

from hypothesis import strategies as st

_STRINGS = st.one_of(
    st.text(st.characters(codec=None), max_size=40),  # lone surrogates included
    st.sampled_from(["", "\u0000", "a\u0000b", "😀" * 50, "x" * 5000, "$where", "1e309", "-0"]),
    st.text(max_size=20),
)
_NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([10**400, -(10**30), 2**31, 2**63, 0, -1, 1.5]),
)
_OPERATORS = st.sampled_from(
    [{"$gt": ""}, {"$ne": None}, {"$where": "sleep(1000)"}, {"$regex": ".*"}, {"$oid": "0" * 24}]
)
_LEAVES = st.one_of(st.none(), st.booleans(), _STRINGS, _NUMBERS, _OPERATORS)


def _nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.lists(leaves, max_size=4), st.dictionaries(_STRINGS, leaves, max_size=4))


VALUES = st.recursive(_LEAVES, _nested, max_leaves=8)
_TOO_DEEP = st.sampled_from(["[" * 20_000, '{"a":' * 10_000, "[" * 20_000 + "]" * 20_000])
_NOT_JSON = st.one_of(st.text(max_size=40), st.just('{"a": 1,}'), st.just("\ufeff{}"), _TOO_DEEP)


def bodies(valid: dict[str, Any], fields: list[str]) -> st.SearchStrategy[str]:
    """Draw bodies: `valid` with one to three of `fields` spoilt, other JSON, or no JSON at all."""
    spoilt = st.dictionaries(st.sampled_from(fields), VALUES, min_size=1, max_size=3)
    return st.one_of(
        spoilt.map(lambda changes: json.dumps(valid | changes)),
        st.dictionaries(_STRINGS, VALUES, max_size=3).map(lambda more: json.dumps(valid | more)),
        VALUES.map(json.dumps),
        _NOT_JSON,
    )
