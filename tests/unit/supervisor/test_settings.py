from pathlib import Path

import pytest

from supervisor.settings import REPOSITORY, Settings, SettingsError


def load(tmp_path: Path, **variables: str) -> Settings:
    return Settings.load({"TICKETRA_HOME": str(tmp_path), **variables})


def test_defaults_live_below_the_checkout() -> None:
    settings = Settings.load({})

    assert settings.home == REPOSITORY / ".local"
    assert settings.aws_endpoint == "http://127.0.0.1:4566"
    assert settings.api_url == "http://localhost:3000"


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "settings.env").write_text(
        "# ports of mine\n\nTICKETRA_REDIS_PORT = 7001\nTICKETRA_API_PORT=7002\n"
    )

    settings = load(tmp_path, TICKETRA_API_PORT="7003")

    assert (settings.redis_port, settings.api_port) == (7001, 7003)


@pytest.mark.parametrize("line", ["TICKETRA_REDIS_PROT=1", "TICKETRA_REDIS_PORT 1", "PATH=/bin"])
def test_a_line_of_the_file_that_means_nothing_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "settings.env").write_text(f"# one\n{line}\n")

    with pytest.raises(SettingsError, match=r"settings\.env, line 2: .*TICKETRA_REDIS_PORT"):
        load(tmp_path)


@pytest.mark.parametrize("value", ["0", "65536", "-1", "80a", "٣", "8 0"])
def test_a_port_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match="TICKETRA_API_PORT must be a port number"):
        load(tmp_path, TICKETRA_API_PORT=value)


def test_two_servers_do_not_get_one_port(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"TICKETRA_POSTGRES_PORT.*TICKETRA_API_PORT.* 15432"):
        load(tmp_path, TICKETRA_API_PORT="15432")


@pytest.mark.parametrize(
    "url", ["http://user:secret@host", "redis://", "secret", "redis://[secret"]
)
def test_a_wrong_url_is_refused_without_showing_it(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="TICKETRA_REDIS_URL") as error:
        load(tmp_path, TICKETRA_REDIS_URL=url)

    assert "secret" not in str(error.value)


def test_credentials_of_urls_are_not_shown(tmp_path: Path) -> None:
    settings = load(tmp_path, TICKETRA_POSTGRES_URL="postgresql://me:secret@db.example:5432")

    assert "secret" not in repr(settings)


def test_an_emulator_elsewhere_serves_the_api_on_its_own_url(tmp_path: Path) -> None:
    settings = load(tmp_path, TICKETRA_AWS_ENDPOINT_URL="http://10.0.0.9:4566/")

    assert settings.api_url == "http://10.0.0.9:4566/_aws/execute-api/ticketra/local"


def test_settings_travel_through_an_environment(tmp_path: Path) -> None:
    settings = load(
        tmp_path, TICKETRA_API_PORT="7002", TICKETRA_REDIS_URL="redis://:secret@cache.example"
    )

    assert Settings.load(settings.environment()) == settings
