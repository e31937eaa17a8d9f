import pytest
from pydantic import BaseModel

from ticketra.settings import SettingsError, load_settings


class Example(BaseModel):
    url: str
    ttl_s: int
    size: int = 5


def test_reads_variables_in_upper_case() -> None:
    loaded = load_settings(Example, {"URL": "x", "TTL_S": "3", "OTHER": "ignored"})

    assert loaded == Example(url="x", ttl_s=3, size=5)


def test_names_every_variable_that_is_missing() -> None:
    with pytest.raises(SettingsError, match=r"URL: .*TTL_S: "):
        load_settings(Example, {})


def test_never_shows_a_value() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(Example, {"URL": "x", "TTL_S": "hunter2"})

    assert "TTL_S" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
