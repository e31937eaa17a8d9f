import subprocess
import sys
import threading
from pathlib import Path

from supervisor.lock import locked
from supervisor.settings import REPOSITORY

HOLDER = """
import sys, time
from pathlib import Path
from supervisor.lock import locked
with locked(Path(sys.argv[1]), "deploy", print):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_waits_and_is_told_for_whom(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    said: list[str] = []
    waiting, entered = threading.Event(), threading.Event()

    def say(text: str) -> None:
        said.append(text)
        waiting.set()

    def second_run() -> None:
        with locked(file, "down", say):
            entered.set()

    with start_holder(file) as holder:
        thread = threading.Thread(target=second_run)
        thread.start()
        assert waiting.wait(10)
        assert not entered.wait(0.3)
        assert said == [f"Waiting for `deploy` (process {holder.pid}) to finish"]
        holder.kill()  # the lock goes with its holder, however that ends
        assert entered.wait(10)
        thread.join()


def test_a_free_lock_is_taken_without_a_word(tmp_path: Path) -> None:
    said: list[str] = []

    for _ in range(2):
        with locked(tmp_path / "deep" / "lock", "up", said.append):
            pass

    assert said == []


def start_holder(file: Path) -> "subprocess.Popen[str]":
    holder = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLDER, str(file)],
        env={"PYTHONPATH": str(REPOSITORY / "localstack")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder
