"""The settings of one instance of the local cloud: where it lives and on which ports.

The standard library is enough here, because the set-up reads the settings before anything is
installed.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENTS = REPOSITORY / ".local" / "env"

STAGE = "local"
REGION = "us-east-1"  # what cdklocal and awslocal use unasked
ASSET_BUCKET = f"ticketra-assets-{STAGE}"
API_ID = "ticketra"
LOOPBACK = "127.0.0.1"

SETTINGS_FILE = "settings.env"
_PREFIX = "TICKETRA_"
_URL_SCHEMES = {
    "postgres_url": ("postgresql", "postgres"),
    "redis_url": ("redis", "rediss"),
    "rabbitmq_url": ("amqp", "amqps"),
    "mongodb_url": ("mongodb", "mongodb+srv"),
    "aws_endpoint_url": ("http", "https"),
}


class SettingsError(Exception):
    """A setting is wrong; the message names its variable, never its value."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Each field but `home` is read from the variable TICKETRA_<FIELD>.

    A server with a URL runs elsewhere: it is checked, never started or stopped. The URLs may hold
    credentials, so they are left out of the representation.
    """

    home: Path
    postgres_port: int = 15432
    redis_port: int = 16379
    rabbitmq_port: int = 15671
    rabbitmq_dist_port: int = 15673
    epmd_port: int = 15674
    mongodb_port: int = 17017
    localstack_port: int = 4566
    api_port: int = 3000
    booking_port: int = 50051
    postgres_url: str = field(default="", repr=False)
    redis_url: str = field(default="", repr=False)
    rabbitmq_url: str = field(default="", repr=False)
    mongodb_url: str = field(default="", repr=False)
    aws_endpoint_url: str = field(default="", repr=False)

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the environment, and below it the file `settings.env` of the instance.

        Raises:
            SettingsError: a value is wrong, or the file holds an unknown name.

        """
        environ = os.environ if environ is None else environ
        home = Path(environ.get("TICKETRA_HOME") or REPOSITORY / ".local").absolute()
        values = _read_file(home / SETTINGS_FILE)
        values.update({name: environ[name] for name in _variables() if environ.get(name)})
        return cls(home=home, **_parse(values))

    @property
    def data(self) -> Path:
        """The servers' data directories."""
        return self.home / "data"

    @property
    def logs(self) -> Path:
        """The servers' log files."""
        return self.home / "log"

    @property
    def run(self) -> Path:
        """Process ids and generated configuration files."""
        return self.home / "run"

    @property
    def lock_file(self) -> Path:
        """The lock around everything that changes the instance."""
        return self.home / "lock"

    @property
    def secrets_file(self) -> Path:
        """The generated credentials and keys."""
        return self.home / "secrets.json"

    @property
    def endpoints_file(self) -> Path:
        """Where the servers are, for the CDK app."""
        return self.home / "endpoints.json"

    @property
    def shell_file(self) -> Path:
        """What a shell reads to use the tools with this instance: `. .local/env.sh`."""
        return self.home / "env.sh"

    @property
    def aws_endpoint(self) -> str:
        """The base URL of the AWS API."""
        return self.aws_endpoint_url or f"http://{LOOPBACK}:{self.localstack_port}"

    @property
    def api_url(self) -> str:
        """The base URL of Ticketra's API."""
        if self.aws_endpoint_url:
            base = self.aws_endpoint_url.rstrip("/")
            return f"{base}/_aws/execute-api/{API_ID}/{STAGE}"
        return f"http://localhost:{self.api_port}"

    def with_ports(self, ports: Mapping[str, int]) -> "Settings":
        """Return a copy with other ports, by field name."""
        changes: dict[str, Any] = dict(ports)
        return replace(self, **changes)

    def environment(self) -> dict[str, str]:
        """Return the variables from which `load` makes these settings again."""
        values = {f"{_PREFIX}{f.name.upper()}": getattr(self, f.name) for f in fields(self)}
        return {name: str(value) for name, value in values.items() if value != ""}


def port_variable(field_name: str) -> str:
    """Return the variable that sets the port `field_name`."""
    return f"{_PREFIX}{field_name.upper()}"


def port_fields() -> tuple[str, ...]:
    """Return the names of the fields that are ports."""
    return tuple(f.name for f in fields(Settings) if f.name.endswith("_port"))


def _variables() -> dict[str, str]:
    """Return the field of each variable."""
    return {f"{_PREFIX}{f.name.upper()}": f.name for f in fields(Settings) if f.name != "home"}


def _read_file(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return {}
    values = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or name not in _variables():
            known = ", ".join(sorted(_variables()))
            raise SettingsError(f"{file}, line {number}: expected NAME=value, NAME one of {known}.")
        values[name] = value
    return values


def _parse(values: Mapping[str, str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for name, text in values.items():
        field_name = _variables()[name]
        if field_name.endswith("_port"):
            parsed[field_name] = _port(name, text)
        elif text:
            parsed[field_name] = _url(name, text, _URL_SCHEMES[field_name])
    _refuse_equal_ports({k: v for k, v in parsed.items() if isinstance(v, int)})
    return parsed


def _port(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise SettingsError(f"{name} must be a port number from 1 to 65535.")
    return int(text)


def _url(name: str, text: str, schemes: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in schemes and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(f"{name} must be a URL like {schemes[0]}://host:port.")
    return text


def _refuse_equal_ports(given: Mapping[str, int]) -> None:
    defaults = {f.name: f.default for f in fields(Settings) if f.name.endswith("_port")}
    owners: dict[object, str] = {}
    for field_name, port in {**defaults, **given}.items():
        other = owners.setdefault(port, field_name)
        if other != field_name:
            raise SettingsError(
                f"{port_variable(other)} and {port_variable(field_name)} are both {port}; "
                "give each its own port."
            )
