"""The durations that `logs tail --since` takes; what it prints is tested end to end."""

import pytest

from awscli_tail import duration_s


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86400), ("1w", 604800)]
)
def test_a_duration_has_a_unit(text: str, seconds: int) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-1m", "1x", "1.5h", "1m "])
def test_anything_else_is_no_duration(text: str) -> None:
    assert duration_s(text) is None
