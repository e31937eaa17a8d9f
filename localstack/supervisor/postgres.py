"""PostgreSQL: Debian's programs on a data directory of our own."""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil
import psycopg
from typing_extensions import override

from supervisor import processes
from supervisor.private_file import write_private
from supervisor.secrets import POSTGRES_ADMIN
from supervisor.server import NotReadyError, Server, ServerError, without_login
from supervisor.settings import LOOPBACK
from supervisor.tail import tail

CONNECT_TIMEOUT_S = 2
INITDB_TIMEOUT_S = 120
MAX_CONNECTIONS = 100
SYSTEM_USER = "postgres"

_PROGRAMS = Path("/usr/lib/postgresql")
_CONFIGURATION = f"""\
listen_addresses = '{LOOPBACK}'
port = {{port}}
unix_socket_directories = ''
max_connections = {MAX_CONNECTIONS}
password_encryption = 'scram-sha-256'
fsync = on
full_page_writes = on
synchronous_commit = on
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %q%u@%d '
"""
_SETTINGS_FILE = "ticketra.conf"
_ACCESS = f"host all all {LOOPBACK}/32 scram-sha-256\n"

# Bits of a capability set that let a process enter any directory; the lesser right comes first.
_DIRECTORY_CAPABILITIES = {"dac_read_search": 1 << 2, "dac_override": 1 << 1}


class Postgres(Server):
    """One PostgreSQL server for all databases."""

    name = "postgres"
    title = "PostgreSQL"
    ports = ("postgres_port",)
    start_timeout_s = 60.0  # recovery after a kill may replay the write-ahead log
    stop_timeout_s = 30.0
    stop_signal = signal.SIGINT  # a fast shutdown: sessions are rolled back, nothing is waited for

    @property
    @override
    def url_elsewhere(self) -> str:
        return self.settings.postgres_url

    @property
    @override
    def address(self) -> str:
        own = f"postgresql://{LOOPBACK}:{self.settings.postgres_port}"
        return without_login(self.url_elsewhere) or own

    @override
    def prepare(self) -> None:
        # The lock file of a killed server: PostgreSQL takes any process with that id for the
        # server, also the killed one itself while nobody has collected it. None of ours runs now.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        configuration = _CONFIGURATION.format(port=self.settings.postgres_port)
        self._write(self.data / _SETTINGS_FILE, configuration)
        self._write(self.data / "pg_hba.conf", _ACCESS)

    @override
    def command(self) -> Sequence[str | Path]:
        major = (self.data / "PG_VERSION").read_text().strip()
        program = _PROGRAMS / major / "bin" / "postgres"
        if not program.exists():
            raise ServerError(
                f"{self.data} was made by PostgreSQL {major}, which is not installed any more: "
                f"install postgresql-{major}, or start with empty data (make clean)."
            )
        return [*self._as_system_user(), program, "-D", self.data]

    @override
    def check(self) -> None:
        login = self.secrets.login("postgres/admin")
        try:
            with psycopg.connect(
                self.url_elsewhere or f"{self.address}/postgres",
                user=login.username or None,
                password=login.password or None,
                connect_timeout=CONNECT_TIMEOUT_S,
                autocommit=True,
            ) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error as error:
            raise NotReadyError(str(error).strip()) from None

    @override
    def all_processes(self) -> list[psutil.Process]:
        # A backend overwrites its environment with its title, and may outlive a killed server.
        backends = processes.working_in(self.data, "postgres")
        return list({p.pid: p for p in (*super().all_processes(), *backends)}.values())

    def _initialise(self) -> None:
        """Make the data directory beside its place and move it there when it is whole."""
        partial = self.data.with_name(f"{self.data.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        password_file = self.settings.run / "postgres-password"
        write_private(password_file, self.secrets.login("postgres/admin").password)
        self._give_to_system_user(partial)
        self._give_to_system_user(password_file)
        command = [
            *self._as_system_user(),
            _newest_programs() / "initdb",
            *("--pgdata", partial),
            *("--username", POSTGRES_ADMIN),
            *("--pwfile", password_file),
            *("--auth", "scram-sha-256"),
            *("--encoding", "UTF8"),
            *("--locale", "C.UTF-8"),
            "--no-instructions",
        ]
        try:
            with self.log.open("ab") as output:
                subprocess.run(
                    [str(word) for word in command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=partial,
                    env={
                        "PATH": os.defpath,
                        "LANG": "C.UTF-8",
                        **processes.marker(self.settings.home, self.name),
                    },
                    timeout=INITDB_TIMEOUT_S,
                    check=True,
                )
        except subprocess.SubprocessError:
            raise ServerError(
                f"PostgreSQL could not make its data directory; the end of {self.log}:\n"
                f"{tail(self.log, 10)}"
            ) from None
        finally:
            password_file.unlink()
        # Behind what initdb found to suit the machine, such as its kind of shared memory.
        with (partial / "postgresql.conf").open("a") as main_settings:
            main_settings.write(f"include = '{_SETTINGS_FILE}'\n")
        partial.rename(self.data)

    def _write(self, file: Path, text: str) -> None:
        file.write_text(text)
        self._give_to_system_user(file)

    def _give_to_system_user(self, path: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(path, SYSTEM_USER, SYSTEM_USER)

    def _as_system_user(self) -> list[str]:
        """Return the words before a command that make it run as a user PostgreSQL accepts.

        PostgreSQL refuses to run as root. Its own user may not be able to enter the directories
        above the data (a checkout below /root), so it then gets the one right to do so.
        """
        if os.geteuid() != 0:
            return []
        try:
            pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            raise ServerError(
                f"PostgreSQL does not run as root and the user {SYSTEM_USER} is missing; "
                f"make it (adduser --system {SYSTEM_USER}) or run as another user."
            ) from None
        user = ["setpriv", f"--reuid={SYSTEM_USER}", f"--regid={SYSTEM_USER}", "--init-groups"]
        if _can_enter(user, self.settings.data):
            return user
        for capability in _DIRECTORY_CAPABILITIES:
            words = [*user, f"--inh-caps=+{capability}", f"--ambient-caps=+{capability}"]
            if _can_enter(words, self.settings.data):
                return words
        raise ServerError(
            f"The user {SYSTEM_USER} cannot enter {self.settings.data}: allow it on each "
            "directory above (chmod o+x), or set TICKETRA_HOME to a directory that it can enter."
        )


def _can_enter(prefix: Sequence[str], directory: Path) -> bool:
    done = subprocess.run(
        [*prefix, "/bin/sh", "-c", 'cd "$1"', "cd", str(directory)],
        cwd="/",
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def _newest_programs() -> Path:
    found = [p for p in _PROGRAMS.glob("*/bin") if (p / "initdb").exists()]
    if not found:
        raise ServerError("PostgreSQL is not installed: apt-get install postgresql.")
    return max(found, key=lambda path: int(path.parent.name))
