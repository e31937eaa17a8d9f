import io
from pathlib import Path

import pytest

from supervisor.__main__ import main, status_table
from supervisor.logs import LAST_LINES, FileFollower
from supervisor.progress import Progress
from supervisor.server import ServerStatus, without_login
from supervisor.tail import tail


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_each_step_is_one_line_with_its_time() -> None:
    stream = io.StringIO()
    progress = Progress(stream)

    with progress.step("Redis") as step:
        step.outcome = "started"
    with pytest.raises(ValueError, match="no"), progress.step("MongoDB"):
        raise ValueError("no")

    redis, mongodb = stream.getvalue().splitlines()
    assert redis.split() == ["Redis", "started", "0.0", "s"]
    assert mongodb.split() == ["MongoDB", "failed", "0.0", "s"]


def test_a_terminal_shows_what_runs() -> None:
    stream = Terminal()
    progress = Progress(stream)

    with progress.step("Redis"), progress.step("MongoDB"):
        assert stream.getvalue().endswith("… Redis, MongoDB")


def test_the_table_shows_what_is_known() -> None:
    up = ServerStatus(
        name="redis",
        state="running",
        address="redis://127.0.0.1:1",
        pid=7,
        since=1000.0,
        memory_bytes=12_400_000,
    )
    down = ServerStatus(name="mongodb", state="stopped", address="mongodb://127.0.0.1:2")

    _, first, second = status_table([up, down], now=1000 + 3661).splitlines()

    assert first.split() == ["redis", "running", "7", "1", "h", "1", "min", "12", "MB", up.address]
    assert second.split() == ["mongodb", "stopped", "-", "-", "-", down.address]
    assert (up.is_up, down.is_up) == (True, False)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:p%40ss@h:1/0?x=1", "redis://h:1/0?x=1"),
        ("amqps://me:pw@[::1]:5/%2F", "amqps://[::1]:5/%2F"),
        ("mongodb://h:1,h:2/?replicaSet=rs0", "mongodb://h:1,h:2/?replicaSet=rs0"),
    ],
)
def test_a_login_is_taken_out_of_a_url(url: str, expected: str) -> None:
    assert without_login(url) == expected


def test_the_end_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "log"
    assert tail(file, 2) == ""

    file.write_text("".join(f"line {number}\n" for number in range(100_000)))

    assert tail(file, 2) == "line 99998\nline 99999"


def test_following_a_log_through_half_lines_and_a_new_file(tmp_path: Path) -> None:
    log = tmp_path / "redis.log"
    log.write_text("".join(f"{number}\n" for number in range(LAST_LINES + 5)))
    follower = FileFollower(log)
    assert follower.last() == [str(number) for number in range(5, LAST_LINES + 5)]

    with log.open("a") as writer:
        writer.write("one\ntw")
        writer.flush()
        assert follower.added() == ["one"]
        writer.write("o\n")
    assert follower.added() == ["two"]
    assert follower.added() == []

    log.rename(tmp_path / "redis.log.1")
    assert follower.added() == []
    log.write_text("three\n")
    assert follower.added() == ["three"]


def test_an_unknown_log_is_a_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["logs", "bookings"])

    assert stopped.value.code == 2
    assert "no log of bookings" in capsys.readouterr().err
