"""Which files are applied, and when the runner refuses."""

from pathlib import Path

import pytest

from migrate.postgresql import ROOT, MigrationError, load, pending


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.sql").write_text(text)
    return directory


def test_files_come_in_order_of_their_numbers(tmp_path: Path) -> None:
    write(tmp_path, **{"0002_b": "SELECT 2", "0001_a": "SELECT 1"})
    assert [migration.name for migration in load(tmp_path)] == ["0001_a.sql", "0002_b.sql"]


@pytest.mark.parametrize("names", [("one",), ("0001_A",), ("0001_a", "0001_b")])
def test_a_file_needs_a_number_of_its_own(tmp_path: Path, names: tuple[str, ...]) -> None:
    write(tmp_path, **dict.fromkeys(names, "SELECT 1"))
    with pytest.raises(MigrationError):
        load(tmp_path)


def test_only_what_is_new_is_pending(tmp_path: Path) -> None:
    first, second = load(write(tmp_path, **{"0001_a": "SELECT 1", "0002_b": "SELECT 2"}))
    assert pending([first, second], {first.name: first.checksum}) == [second]


def test_an_applied_file_that_changed_or_went_is_an_error(tmp_path: Path) -> None:
    [only] = load(write(tmp_path, **{"0001_a": "SELECT 1"}))
    with pytest.raises(MigrationError, match="has changed"):
        pending([only], {only.name: "another checksum"})
    with pytest.raises(MigrationError, match="gone"):
        pending([], {only.name: only.checksum})


@pytest.mark.parametrize("database", ["auth", "orders"])
def test_the_files_of_this_repository_are_in_order(database: str) -> None:
    assert load(ROOT / database)
