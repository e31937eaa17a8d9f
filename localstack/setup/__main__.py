"""Set up a checkout: what is missing is installed, what is current is left alone."""

import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType

from setup import packages, prerequisites
from setup.commands import CommandError, Commands, Stopped
from setup.environments import Builder, Environment
from setup.interpreter import Interpreter, MissingPrerequisiteError, choose
from supervisor.lock import locked
from supervisor.progress import Progress
from supervisor.settings import REPOSITORY, Settings, SettingsError
from supervisor.waiting import wait_all

EXIT_INTERRUPTED = 130
PARALLEL_STEPS = 6


class SetUp:
    """One run of the set-up."""

    def __init__(self, settings: Settings, python: Interpreter, progress: Progress) -> None:
        self._progress = progress
        self._python = python
        logs = REPOSITORY / ".local" / "log"
        logs.mkdir(parents=True, exist_ok=True)
        self._commands = Commands(logs)
        self._builder = Builder(REPOSITORY, python, self._commands)
        self._packages = packages.missing(settings, python)

    def is_current(self) -> bool:
        """Tell whether there is nothing to do."""
        environments = [self._builder.uv(), *self._builder.with_uv(), self._builder.node()]
        return not self._packages and all(item.is_current() for item in environments)

    def run(self) -> None:
        """Do what is missing, in parallel where possible; raise the first failure at the end."""
        prefix = packages.become_root(self._packages) if self._packages else []
        with ThreadPoolExecutor(max_workers=PARALLEL_STEPS) as pool:
            try:
                self._run_steps(pool, prefix)
            except KeyboardInterrupt:
                # Leaving the pool waits for the children: dpkg is never cut off half-way.
                self._commands.stop()
                raise

    def _run_steps(self, pool: ThreadPoolExecutor, prefix: list[str]) -> None:
        installed = pool.submit(self._install_packages, prefix)
        steps: list[Future[None]] = [installed, pool.submit(self._make, self._builder.node())]
        if not self._python.makes_environments:
            wait_all([installed])
            installed.result()
        uv = pool.submit(self._make, self._builder.uv())
        wait_all([uv])
        uv.result()
        steps += [pool.submit(self._make, item) for item in self._builder.with_uv()]
        wait_all(steps)
        for step in steps:
            step.result()

    def _install_packages(self, prefix: list[str]) -> None:
        if self._packages:
            self._step(
                "packages",
                " ".join(self._packages),
                lambda: packages.install(self._commands, prefix, self._packages),
            )

    def _make(self, environment: Environment) -> None:
        if not environment.is_current():
            shown = environment.directory.relative_to(REPOSITORY)
            self._step(environment.name, str(shown), environment.make)

    def _step(self, name: str, outcome: str, action: Callable[[], None]) -> None:
        self._commands.log_path(name).unlink(missing_ok=True)
        with self._progress.step(name) as step:
            action()
            step.outcome = outcome


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _set_up() -> None:
    started = time.monotonic()
    settings = Settings.load()
    prerequisites.check()
    python = choose()
    progress = Progress(sys.stdout)
    set_up = SetUp(settings, python, progress)
    if set_up.is_current():
        return
    with locked(REPOSITORY / ".local" / "env.lock", "set-up", progress.say):
        # Another run may have done it while this one waited.
        set_up = SetUp(settings, python, progress)
        if not set_up.is_current():
            progress.say(f"Setting up with Python {python.version} ({python.path})")
            set_up.run()
    progress.say(f"Set up in {time.monotonic() - started:.0f} s")


def main() -> int:
    """Return the exit status: 0 set up, 1 not, 130 stopped by the user."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _set_up()
    except (MissingPrerequisiteError, SettingsError, CommandError) as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Stopped):
        print("Stopped; the next run goes on from here.", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
