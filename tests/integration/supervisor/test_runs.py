"""Runs of the command line: cut off, at the same time, beside another instance."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from supervisor import cloud, ports, processes
from supervisor.lock import locked
from supervisor.ports import PortTakenError
from supervisor.secrets import read
from supervisor.server import ServerError
from supervisor.settings import REPOSITORY, Settings
from tests.integration.supervisor import clients

LIMIT_S = 45  # below the time that a server is given to start


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_next_up_heals_one_that_was_cut_off(
    make_instance: Callable[[], Settings], number: signal.Signals
) -> None:
    settings = make_instance()
    with run(settings, "up") as cut_off:
        wait_until((settings.run / "rabbitmq.pid").exists)
        starting = psutil.Process(int((settings.run / "rabbitmq.pid").read_text()))
        starting.suspend()  # so that the run waits for it far longer than this test
        cut_off.send_signal(number)
        cut_off.communicate(timeout=LIMIT_S)
        starting.resume()
    assert cut_off.returncode == (130 if number != signal.SIGKILL else -signal.SIGKILL)

    cloud.up(settings)  # LocalStack too, which takes long to stop while it starts

    assert {item.state for item in cloud.status(settings)} == {"running"}
    cloud.down(settings)
    assert processes.marked(settings.home) == []


def test_a_second_run_waits_and_says_for_whom(make_instance: Callable[[], Settings]) -> None:
    settings = make_instance()
    with ExitStack() as stack:
        with locked(settings.lock_file, "up", print):
            second = stack.enter_context(run(settings, "down"))
            assert second.stdout is not None
            said = second.stdout.readline()
            assert second.poll() is None
        output, _ = second.communicate(timeout=LIMIT_S)

    assert said == f"Waiting for `up` (process {os.getpid()}) to finish\n"
    assert "is down" in output
    assert second.returncode == 0


def test_a_taken_port_stops_everything_before_it_starts(
    make_instance: Callable[[], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "RELEASE_TIMEOUT_S", 0)
    settings = make_instance()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", settings.rabbitmq_dist_port))
        listener.listen()

        with pytest.raises(PortTakenError) as error:
            cloud.up(settings)

    assert str(settings.rabbitmq_dist_port) in str(error.value)
    assert f"process {os.getpid()}" in str(error.value)
    assert "TICKETRA_RABBITMQ_DIST_PORT" in str(error.value)
    assert processes.marked(settings.home) == []


def test_a_server_that_cannot_start_leaves_nothing_of_itself(
    make_instance: Callable[[], Settings],
) -> None:
    settings = make_instance()
    cloud.up(settings, only={"redis"})
    cloud.down(settings)
    [appended] = (settings.data / "redis").glob("appendonlydir/*.manifest")
    appended.write_text("damaged")

    with pytest.raises(ServerError, match=r"Redis ended while it started[\s\S]*AOF"):
        cloud.up(settings, only={"redis"})

    assert processes.marked(settings.home) == []


def test_two_instances_do_not_disturb_each_other(instance: Settings, beside: Settings) -> None:
    cloud.up(instance)
    before = {item.name: item.pid for item in cloud.status(instance)}

    cloud.up(beside, only={"postgres", "redis"})
    cloud.down(beside)

    assert {item.name: item.pid for item in cloud.status(instance)} == before
    assert {item.state for item in cloud.status(instance)} == {"running"}
    assert processes.marked(beside.home) == []


def test_servers_elsewhere_are_used_and_never_stopped(instance: Settings, beside: Settings) -> None:
    cloud.up(instance)
    user = clients.login(instance, "redis")
    environment = {
        **beside.environment(),
        "TICKETRA_REDIS_URL": f"redis://:{user.password}@127.0.0.1:{instance.redis_port}/3",
        "TICKETRA_AWS_ENDPOINT_URL": instance.aws_endpoint,
    }
    settings = Settings.load(environment)

    cloud.up(settings, only={"redis", "localstack"})

    assert processes.marked(settings.home) == []
    assert read(settings).login("redis").password == user.password
    assert user.password not in settings.endpoints_file.read_text()
    assert f"redis://127.0.0.1:{instance.redis_port}/3" in settings.endpoints_file.read_text()
    states = {item.name: item.state for item in cloud.status(settings)}
    assert (states["redis"], states["localstack"]) == ("elsewhere", "elsewhere")
    cloud.down(settings)
    clients.redis_client(instance, user).ping()
    cloud.up(instance)  # its own secrets, which the second instance replaced in the one emulator


def test_a_server_elsewhere_that_does_not_answer_is_named(
    make_instance: Callable[[], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.server.ELSEWHERE_TIMEOUT_S", 0)
    settings = make_instance()
    nobody = f"postgresql://me:secret@127.0.0.1:{settings.postgres_port}/postgres"
    settings = Settings.load({**settings.environment(), "TICKETRA_POSTGRES_URL": nobody})

    with pytest.raises(ServerError, match=r"PostgreSQL at postgresql://127\.0\.0\.1") as error:
        cloud.up(settings, only={"postgres"})

    assert "secret" not in str(error.value)


def test_status_tells_scripts_that_something_is_down(
    make_instance: Callable[[], Settings],
) -> None:
    with run(make_instance(), "status") as stopped:
        output, _ = stopped.communicate(timeout=LIMIT_S)

    assert stopped.returncode == 1
    assert output.count("stopped") == len(cloud.SERVER_NAMES)


@contextmanager
def run(settings: Settings, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run the command line as `make` does."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "supervisor", *arguments],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{REPOSITORY / 'localstack'}:{REPOSITORY}",
            "PYTHONUNBUFFERED": "1",
            **settings.environment(),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        yield child


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)
