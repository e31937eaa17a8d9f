"""The plugin's settings, read once from LocalStack's environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class ApiRoute:
    """The deployed API that answers on a port of its own."""

    api_id: str
    stage: str


@dataclass(frozen=True)
class Settings:
    """What can be set from outside.

    Attributes
    ----------
    environments_limit : int
        Most execution environments of one function version.
    queue_limit : int
        Most invocations of one function version that wait for an environment.
    queue_wait_s : float
        Longest time that an invocation waits for an environment.
    runtime_client_dir : Path or None
        Directory with AWS's runtime interface client, or with one `pythonX.Y` directory for each
        interpreter.
    interpreters : mapping of str to str
        Interpreter by version ("3.11"), where it is not to be looked up on PATH.
    api_port_routes : mapping of int to ApiRoute
        Ports that belong to one API each.
    """

    environments_limit: int = 8
    queue_limit: int = 500
    queue_wait_s: float = 25.0
    runtime_client_dir: Path | None = None
    interpreters: Mapping[str, str] = field(default_factory=dict)
    api_port_routes: Mapping[int, ApiRoute] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the settings; a ValueError names the variable that can't be read."""
        client_dir = environment.get("LAMBDA_PROCESS_RIC_DIR")
        return cls(
            environments_limit=_positive(environment, "LAMBDA_PROCESS_MAX_ENVIRONMENTS", 8),
            queue_limit=int(_number(environment, "LAMBDA_PROCESS_QUEUE_LIMIT", 500)),
            queue_wait_s=_number(environment, "LAMBDA_PROCESS_QUEUE_WAIT_S", 25.0),
            runtime_client_dir=Path(client_dir).resolve() if client_dir else None,
            interpreters=_interpreters(environment),
            api_port_routes=parse_api_port_routes(environment.get("API_PORT_ROUTES", "")),
        )


def parse_api_port_routes(value: str) -> dict[int, ApiRoute]:
    """Parse `port=api-id/stage[,…]`."""
    routes = {}
    for item in filter(None, (part.strip() for part in value.split(","))):
        port, _, target = item.partition("=")
        api_id, _, stage = target.partition("/")
        if not port.isdigit() or not api_id or not stage or "/" in stage:
            msg = f"API_PORT_ROUTES: {item!r} is not of the form port=api-id/stage"
            raise ValueError(msg)
        routes[int(port)] = ApiRoute(api_id, stage)
    return routes


@cache
def settings() -> Settings:
    """Return the settings of this LocalStack."""
    return Settings.from_environment(os.environ)


def _interpreters(environment: Mapping[str, str]) -> dict[str, str]:
    prefix = "LAMBDA_PROCESS_PYTHON"
    return {
        name.removeprefix(prefix).replace("_", "."): value
        for name, value in environment.items()
        if name.startswith(prefix) and value
    }


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    value = environment.get(name)
    if not value:
        return default
    try:
        number = float(value)
    except ValueError:
        number = -1
    if number < 0:
        msg = f"{name}: {value!r} is not a number of 0 or more"
        raise ValueError(msg)
    return number


def _positive(environment: Mapping[str, str], name: str, default: int) -> int:
    number = int(_number(environment, name, default))
    if number < 1:
        msg = f"{name}: must be 1 or more"
        raise ValueError(msg)
    return number
