"""Stage settings: what is missing or wrong is named, and nothing is guessed."""

import json
from pathlib import Path

import pytest

from infra_cdk.config import ConfigError, load_config

KNOWN = {
    "postgres_url": "postgresql://127.0.0.1:1",
    "redis_url": "redis://127.0.0.1:2/0",
    "rabbitmq_url": "amqp://127.0.0.1:3/%2F",
    "mongodb_url": "mongodb://127.0.0.1:4/",
    "booking_port": 5,
    "python": "3.12",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "endpoints.json").write_text(json.dumps(KNOWN))
    return tmp_path


def test_reads_where_the_servers_are(home: Path) -> None:
    config = load_config("local", {"TICKETRA_HOME": str(home)})

    assert config.endpoints.postgres_url == "postgresql://127.0.0.1:1"
    assert config.endpoints.booking == "127.0.0.1:5"
    assert config.python_version == "3.12"
    assert config.access_policy == "strict"


def test_an_unknown_stage_is_refused(home: Path) -> None:
    with pytest.raises(ConfigError, match="unknown stage 'prod'"):
        load_config("prod", {"TICKETRA_HOME": str(home)})


def test_says_what_to_do_before_the_servers_were_started(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run 'make up' first"):
        load_config("local", {"TICKETRA_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TICKETRA_ACCESS_POLICY", "closed"),
        ("TICKETRA_BOOKING_TASKS", "0"),
        ("TICKETRA_HOLD_TTL_S", "ten"),
        ("TICKETRA_FAILURES_PER_ADDRESS", "0"),
        ("TICKETRA_CORS_ORIGINS", "shop.example"),
        ("TICKETRA_CORS_ORIGINS", "https://shop.example/"),
        ("TICKETRA_CORS_ORIGINS", "https://*.example"),
        ("TICKETRA_CORS_ORIGINS", "https://shop.example,https://b.example"),
    ],
)
def test_a_wrong_setting_is_named(home: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load_config("local", {"TICKETRA_HOME": str(home), name: value})


def test_origins_are_separated_by_spaces(home: Path) -> None:
    def origins(value: str) -> tuple[str, ...]:
        environ = {"TICKETRA_HOME": str(home), "TICKETRA_CORS_ORIGINS": value}
        return load_config("local", environ).cors_origins

    assert origins("https://shop.example http://localhost:*") == (
        "https://shop.example",
        "http://localhost:*",
    )
    assert origins("*") == ("*",)
    assert origins("") == ()
