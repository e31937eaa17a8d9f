"""The environments: each is made from its lock by a pinned uv or npm, and stamped when whole."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from setup import stamps
from setup.commands import Commands
from setup.interpreter import Interpreter, MissingPrerequisiteError

STAMP_FORMAT = "2"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A directory that is made by `build` from `inputs` and from the Python in use."""

    name: str
    directory: Path
    inputs: tuple[Path, ...]
    build: Callable[["Environment"], None]
    facts: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """What the environment has to be made from."""
        return stamps.digest(self.inputs, STAMP_FORMAT, *self.facts)

    def is_current(self) -> bool:
        """Tell whether the directory is whole and made from the present inputs."""
        return stamps.read(self.directory) == self.digest

    def make(self) -> None:
        """Build the directory and stamp it."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        self.build(self)
        stamps.write(self.directory, self.digest)


class Builder:
    """Knows every environment of a checkout and how to make it."""

    def __init__(self, root: Path, python: Interpreter, commands: Commands) -> None:
        self._root = root
        self._python = python
        self._commands = commands
        self._environments = root / ".local" / "env"
        self._uv_directory = self._environments / "uv"
        self._facts = (python.path, python.full_version, str(root))

    def uv(self) -> Environment:
        """Return uv itself, made through the pip of the Python in use."""
        return self._environment(
            "uv", self._uv_directory, ["localstack/setup/uv.txt"], self._build_uv
        )

    def with_uv(self) -> list[Environment]:
        """Return the environments that uv makes."""
        packages: list[str | Path] = ["localstack/emulator/requirements.txt"]
        packages += self._plugin_sources()
        return [
            self._environment(
                "project", self._root / ".venv", ["requirements-dev.txt"], self._build_project
            ),
            self._environment(
                "emulator", self._environments / "emulator", packages, self._build_emulator
            ),
            self._environment(
                "lambda-runtime",
                self._environments / "ric" / f"python{self._python.version}",
                ["localstack/lambda_runtime/requirements.txt"],
                self._build_target,
            ),
            self._environment(
                "mongodb",
                self._environments / "mongodb",
                ["localstack/mongodb/requirements.txt"],
                self._build_target,
            ),
        ]

    def node(self) -> Environment:
        """Return the CDK command line, made by npm."""
        return self._environment(
            "npm",
            self._root / "node_modules",
            ["package.json", "package-lock.json"],
            self._build_npm,
        )

    def _environment(
        self,
        name: str,
        directory: Path,
        inputs: Sequence[str | Path],
        build: Callable[[Environment], None],
    ) -> Environment:
        return Environment(
            name=name,
            directory=directory,
            inputs=tuple(self._root / file for file in inputs),
            build=build,
            facts=() if name == "npm" else self._facts,
        )

    def _plugin_sources(self) -> list[Path]:
        plugin = self._root / "localstack/plugin"
        return [plugin / "pyproject.toml", *sorted(plugin.glob("process_cloud/**/*.py"))]

    def _uv(self, step: str, *arguments: str | Path) -> None:
        self._commands.run(step, [self._uv_directory / "bin/uv", *arguments])

    def _build_uv(self, environment: Environment) -> None:
        directory = environment.directory
        run = self._commands.run
        run("uv", [self._python.path, "-I", "-m", "venv", "--clear", directory])
        pip: list[str | Path] = [
            directory / "bin/python",
            "-I",
            "-m",
            "pip",
            "--disable-pip-version-check",
        ]
        run(
            "uv",
            [
                *pip,
                "install",
                "--quiet",
                "--require-hashes",
                "--no-deps",
                "-r",
                environment.inputs[0],
            ],
        )

    def _build_venv(self, environment: Environment) -> None:
        name, directory = environment.name, environment.directory
        # A stamp that differs speaks of a whole environment, which uv can bring up to date in
        # place. Without a stamp, or with another Python, nothing of it is trusted.
        stamped = stamps.read(directory) is not None
        same_python = (directory / "bin/python").resolve() == Path(self._python.path)
        stamps.remove(directory)
        if not (stamped and same_python):
            self._uv(name, "venv", "--quiet", "--clear", "--python", self._python.path, directory)
        self._uv(
            name,
            *("pip", "sync", "--quiet", "--require-hashes"),
            *("--python", directory / "bin/python", environment.inputs[0]),
        )

    def _build_project(self, environment: Environment) -> None:
        self._build_venv(environment)
        # The AWS command line, which runs in here, finds its plugin `awscli_tail` through this.
        packages = next(environment.directory.glob("lib/python3*/site-packages"))
        (packages / "ticketra.pth").write_text(f"{self._root / 'localstack'}\n")

    def _build_emulator(self, environment: Environment) -> None:
        self._build_venv(environment)
        # Built from a copy: a build leaves files beside its sources, and takes old ones for new.
        copy = self._environments / "plugin-source"
        shutil.rmtree(copy, ignore_errors=True)
        ignored = shutil.ignore_patterns("tests", "build", "*.egg-info", "__pycache__")
        shutil.copytree(self._root / "localstack/plugin", copy, ignore=ignored)
        self._uv(
            environment.name,
            *("pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--reinstall"),
            *("--python", environment.directory / "bin/python", copy),
        )
        shutil.rmtree(copy)

    def _build_target(self, environment: Environment) -> None:
        directory = environment.directory
        partial = directory.with_name(f"{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        self._uv(
            environment.name,
            *("pip", "install", "--quiet", "--require-hashes", "--no-deps"),
            *("--python", self._python.path, "--target", partial, "-r", environment.inputs[0]),
        )
        stamps.remove(directory)
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)

    def _build_npm(self, environment: Environment) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise MissingPrerequisiteError("Install npm.")
        stamps.remove(environment.directory)
        self._commands.run(
            "npm", [npm, "ci", "--no-audit", "--no-fund", "--no-progress"], cwd=self._root
        )
