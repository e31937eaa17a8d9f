"""The command that makes an admin, against a real PostgreSQL."""

import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from identity import passwords
from identity.models import User
from identity.store import UserStore
from supervisor.__main__ import main
from supervisor.secrets import load_or_make
from supervisor.settings import Settings
from tests.integration.servers import Server

ANNA, BEA = (
    User(id=uuid4(), email=email, role="user", created_at=datetime.now(UTC))
    for email in ("anna@example.com", "bea@example.com")
)


@pytest.fixture(autouse=True)
def _instance(database: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance of the local cloud whose PostgreSQL is the test's."""
    monkeypatch.setenv("TICKETRA_HOME", str(tmp_path))
    login = f"{database.username}:{database.password}@"
    monkeypatch.setenv("TICKETRA_POSTGRES_URL", database.url.replace("//", f"//{login}"))
    settings = Settings.load()
    load_or_make(settings)
    settings.endpoints_file.write_text(json.dumps({"postgres_url": database.url}))


def test_gives_the_role_and_takes_it(users: UserStore, capsys: pytest.CaptureFixture[str]) -> None:
    for user in (ANNA, BEA):
        users.insert(user, passwords.hashed("correct horse", 4))

    def role_of(user: User) -> str:
        found = users.find(user.id)
        assert found is not None
        return found[0].role

    assert main(["admin", "--", " Anna@Example.com"]) == 0
    assert (role_of(ANNA), role_of(BEA)) == ("admin", "user")
    assert "anna@example.com is an admin" in capsys.readouterr().out

    assert main(["admin", "--revoke", "--", "anna@example.com"]) == 0
    assert (role_of(ANNA), role_of(BEA)) == ("user", "user")


def test_says_whom_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["admin", "--", "nobody@example.com"]) == 1
    assert "Nobody has registered with 'nobody@example.com'" in capsys.readouterr().err


def test_says_that_the_server_is_away(database: Server, capsys: pytest.CaptureFixture[str]) -> None:
    database.stop()

    assert main(["admin", "--", "anna@example.com"]) == 1

    error = capsys.readouterr().err
    assert "PostgreSQL did not set the role" in error
    assert database.password not in error
