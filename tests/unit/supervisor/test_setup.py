import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from setup import packages, prerequisites, stamps
from setup.commands import CommandError, Commands, Stopped
from setup.environments import Environment
from setup.interpreter import Interpreter, MissingPrerequisiteError, choose, probe
from supervisor import processes
from supervisor.settings import REPOSITORY, Settings

INSTALLER = REPOSITORY / "localstack" / "setup" / "install-packages.sh"

Programs = Callable[..., Path]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Put shell scripts, given by name and body, in front of everything else on PATH."""
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")

    def write(**scripts: str) -> Path:
        for name, body in scripts.items():
            program = directory / name.replace("_", "-")
            program.write_text(f"#!/bin/sh\n{body}\n")
            program.chmod(0o755)
        return directory

    return write


class TestStamps:
    def test_the_digest_knows_contents_and_facts(self, tmp_path: Path) -> None:
        lock = tmp_path / "lock.txt"
        lock.write_text("one")
        first = stamps.digest([lock], "3.11")

        assert stamps.digest([lock], "3.11") == first
        assert stamps.digest([lock], "3.12") != first
        lock.write_text("two")
        assert stamps.digest([lock], "3.11") != first

    def test_a_half_made_environment_is_not_current(self, tmp_path: Path) -> None:
        def half_way(environment: Environment) -> None:
            environment.directory.mkdir()
            (environment.directory / "half").touch()
            raise CommandError("killed")

        environment = make_environment(tmp_path, half_way)

        with pytest.raises(CommandError):
            environment.make()

        assert (environment.directory / "half").exists()
        assert not environment.is_current()

    def test_a_whole_environment_is_current_until_its_input_changes(self, tmp_path: Path) -> None:
        environment = make_environment(tmp_path, lambda item: item.directory.mkdir())

        environment.make()
        assert environment.is_current()

        (tmp_path / "lock.txt").write_text("newer")
        assert not environment.is_current()


class TestPrerequisites:
    def test_this_machine_has_them(self) -> None:
        prerequisites.check()

    def test_an_old_node_gets_one_sentence(self, programs: Programs) -> None:
        programs(node="echo v18.19.0", npm="true")

        with pytest.raises(MissingPrerequisiteError, match=r"Node\.js 20 or newer.*is v18\.19\.0"):
            prerequisites.check()

    def test_a_node_that_does_not_run_gets_one_sentence(self, programs: Programs) -> None:
        programs(node="exit 1", npm="true")

        with pytest.raises(MissingPrerequisiteError, match=r"Node\.js 20 or newer.*does not run"):
            prerequisites.check()

    @pytest.mark.parametrize("named", ["/nowhere/python", "/bin/true"])
    def test_a_python_that_will_not_do_is_named(
        self, monkeypatch: pytest.MonkeyPatch, named: str
    ) -> None:
        monkeypatch.setenv("PYTHON", named)

        with pytest.raises(MissingPrerequisiteError, match=f"PYTHON={named} is not a working"):
            choose()

    def test_the_running_python_is_taken_below_its_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PYTHON", raising=False)

        assert choose().path == str(Path(sys.executable).resolve())

    def test_an_unsupported_python_leads_to_one_on_the_path(
        self, monkeypatch: pytest.MonkeyPatch, programs: Programs
    ) -> None:
        monkeypatch.delenv("PYTHON", raising=False)
        directory = programs(python3_12=f'exec {sys.executable} "$@"')
        (directory / "python3-12").rename(directory / "python3.12")
        monkeypatch.setattr(sys, "executable", "/bin/true")

        assert choose() == probe(str(directory / "python3.12"))


class TestPackages:
    PYTHON = Interpreter(
        path="/usr/bin/python3.12", version="3.12", full_version="", makes_environments=False
    )

    def test_a_debian_python_without_venv_gets_its_package(self) -> None:
        assert "python3.12-venv" in packages.missing(Settings(home=Path("/")), self.PYTHON)

    def test_nothing_is_installed_for_servers_elsewhere(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shutil.which", lambda _: None)
        monkeypatch.setattr(Path, "exists", lambda _: False)
        monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
        monkeypatch.setattr("ctypes.util.find_library", lambda _: None)
        here = Settings(home=Path("/"))
        elsewhere = Settings(
            home=Path("/"),
            postgres_url="postgresql://db",
            redis_url="redis://cache",
            rabbitmq_url="amqp://broker",
            mongodb_url="mongodb://documents",
        )

        assert packages.missing(here, self.PYTHON) == [
            "postgresql",
            "redis-server",
            "rabbitmq-server",
            "curl",
            "libcurl4",
            "python3.12-venv",
        ]
        assert packages.missing(elsewhere, self.PYTHON) == ["curl", "python3.12-venv"]


class TestInstaller:
    """The shell script with stand-ins for apt-get and its kin, and a policy file of the test's."""

    OWN_POLICY = "#!/bin/sh\n# the machine's own\nexit 0\n"

    @pytest.fixture
    def policy(self, tmp_path: Path) -> Path:
        return tmp_path / "policy-rc.d"

    def run(self, policy: Path, *names: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["/bin/sh", INSTALLER, *names],
            env={**os.environ, "TICKETRA_POLICY_RC_D": str(policy)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @pytest.mark.parametrize("apt_result", [0, 1])
    def test_services_are_forbidden_meanwhile_and_the_policy_is_put_back(
        self, policy: Path, programs: Programs, apt_result: int
    ) -> None:
        programs(
            apt_get=f'"{policy}"; echo "policy says $? to $*"; exit {apt_result}',
            dpkg="true",
            systemctl="exit 1",
        )
        policy.write_text(self.OWN_POLICY)
        policy.chmod(0o751)
        before = policy.stat()

        with self.run(policy, "redis-server") as installer:
            output, _ = installer.communicate(timeout=20)

        assert "policy says 101 to install" in output
        assert "redis-server" in output
        assert (installer.returncode == 0) is (apt_result == 0)
        after = policy.stat()
        assert policy.read_text() == self.OWN_POLICY
        assert (after.st_ino, after.st_mode, after.st_mtime) == (
            before.st_ino,
            before.st_mode,
            before.st_mtime,
        )

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_policy_that_was_not_there_goes_again_when_the_user_stops(
        self, policy: Path, programs: Programs, number: signal.Signals
    ) -> None:
        programs(apt_get="echo installing; exec sleep 30", dpkg="true", systemctl="exit 1")

        with self.run(policy, "redis-server") as installer:
            assert installer.stdout is not None
            assert installer.stdout.readline() == "installing\n"
            assert policy.exists()
            os.killpg(installer.pid, number)
            installer.communicate(timeout=20)

        assert installer.returncode != 0
        assert not policy.exists()

    def test_what_a_killed_run_left_is_put_back_by_the_next(
        self, policy: Path, programs: Programs
    ) -> None:
        programs(apt_get="echo installing; exec sleep 30", dpkg="true", systemctl="exit 1")
        policy.write_text(self.OWN_POLICY)
        with self.run(policy, "redis-server") as installer:
            assert installer.stdout is not None
            installer.stdout.readline()
            os.killpg(installer.pid, signal.SIGKILL)
            installer.communicate(timeout=20)
        assert policy.read_text() != self.OWN_POLICY

        programs(apt_get="true")
        with self.run(policy, "redis-server") as installer:
            installer.communicate(timeout=20)

        assert policy.read_text() == self.OWN_POLICY

    def test_only_services_that_this_run_brought_are_disabled(
        self, policy: Path, programs: Programs, tmp_path: Path
    ) -> None:
        installed = tmp_path / "installed"
        programs(
            apt_get=f"touch {installed}",
            dpkg="true",
            systemctl=(
                f'case "$1 $#$2$3" in\n"is-enabled 3--quietpostgresql") exit 0 ;;\n'
                f'"is-enabled 3--quietredis-server") test -e {installed} ;;\n'
                'disable*) echo "disabled $2" ;;\n*) exit 1 ;;\nesac'
            ),
        )

        with self.run(policy, "redis-server") as installer:
            output, _ = installer.communicate(timeout=20)

        assert [line for line in output.splitlines() if "disabled" in line] == [
            "disabled redis-server"
        ]


class TestCommands:
    def test_a_failure_shows_the_end_of_the_log(self, tmp_path: Path) -> None:
        with pytest.raises(CommandError, match=r"sh failed \(exit 3\)[\s\S]*it broke"):
            Commands(tmp_path).run("npm", ["/bin/sh", "-c", "echo it broke; exit 3"])

        assert "it broke" in (tmp_path / "setup-npm.log").read_text()

    def test_what_runs_dies_with_a_killed_set_up(self, tmp_path: Path) -> None:
        script = (
            "import sys; from pathlib import Path; from setup.commands import Commands;"
            "Commands(Path(sys.argv[1])).run("
            "'npm', ['/bin/sh', '-c', 'echo $$ > child; exec sleep 600'], cwd=Path(sys.argv[1]))"
        )
        with subprocess.Popen(
            [sys.executable, "-P", "-c", script, tmp_path],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "localstack")},
        ) as set_up:
            while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
                threading.Event().wait(0.01)
            child = psutil.Process(int((tmp_path / "child").read_text()))
            set_up.kill()

        assert processes.wait_gone([child], 10) == []

    def test_stopping_ends_what_runs_and_admits_nothing_new(self, tmp_path: Path) -> None:
        commands = Commands(tmp_path)
        ended: list[BaseException] = []

        def run() -> None:
            try:
                commands.run("npm", ["/bin/sh", "-c", f"touch {tmp_path}/started; exec sleep 600"])
            except Stopped as stopped:
                ended.append(stopped)

        thread = threading.Thread(target=run)
        thread.start()
        while not (tmp_path / "started").exists():
            threading.Event().wait(0.01)
        commands.stop()
        thread.join(10)

        assert len(ended) == 1
        with pytest.raises(Stopped):
            commands.run("npm", ["/bin/true"])


def make_environment(tmp_path: Path, build: Callable[[Environment], None]) -> Environment:
    (tmp_path / "lock.txt").write_text("one")
    return Environment(
        name="emulator",
        directory=tmp_path / "environment",
        inputs=(tmp_path / "lock.txt",),
        build=build,
    )
