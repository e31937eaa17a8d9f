"""The settings of each stage: one typed object that the whole CDK app is built from."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

ROOT = Path(__file__).resolve().parent.parent
AccessPolicy = Literal["strict", "open"]
LOCAL_ORIGINS = "http://localhost:* http://127.0.0.1:*"
_ORIGIN = re.compile(r"\*|https?://[a-z0-9.-]+(?::(?:[0-9]{1,5}|\*))?")


class ConfigError(Exception):
    """A stage setting is missing or wrong; the message says which."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the servers answer; URLs without credentials."""

    postgres_url: str
    redis_url: str
    rabbitmq_url: str
    mongodb_url: str
    booking: str
    """host:port of the booking service's gRPC port"""


@dataclass(frozen=True, slots=True)
class StageConfig:
    """Everything that differs between two deployments."""

    stage: str
    api_id: str
    access_policy: AccessPolicy
    python_version: str
    """such as "3.11": what the functions declare and the layer's wheels are for"""
    endpoints: Endpoints
    asset_bucket: str
    booking_tasks: int
    hold_ttl_s: int
    token_ttl_s: int
    failures_per_address: int
    """failed logins from one client address before it is slowed down"""
    cors_origins: tuple[str, ...]
    """whose pages may call, such as "https://shop.example" or "http://localhost:*" (any port)"""
    log_level: str
    log_retention_days: int

    @property
    def prefix(self) -> str:
        """What the names of this stage's resources begin with."""
        return f"ticketra-{self.stage}"

    def secret_name(self, name: str) -> str:
        """Return the Secrets Manager name of the stage's secret `name`."""
        return f"ticketra/{self.stage}/{name}"

    def parameter_name(self, name: str) -> str:
        """Return the SSM name of the stage's parameter `name`."""
        return f"/ticketra/{self.stage}/{name}"


def load_config(stage: str, environ: Mapping[str, str] = os.environ) -> StageConfig:
    """Return the settings of `stage`.

    Raises:
        ConfigError: the stage is unknown, or a setting is missing or wrong.

    """
    if stage != "local":
        raise ConfigError(f"unknown stage {stage!r}: only 'local' exists")
    return _local(environ)


def _local(environ: Mapping[str, str]) -> StageConfig:
    instance = Path(environ.get("TICKETRA_HOME", ROOT / ".local"))
    file = instance / "endpoints.json"
    try:
        known = json.loads(file.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{file} is missing: run 'make up' first") from None
    return StageConfig(
        stage="local",
        api_id="ticketra",
        access_policy=_access_policy(environ.get("TICKETRA_ACCESS_POLICY", "strict")),
        python_version=known["python"],
        endpoints=Endpoints(
            postgres_url=known["postgres_url"],
            redis_url=known["redis_url"],
            rabbitmq_url=known["rabbitmq_url"],
            mongodb_url=known["mongodb_url"],
            booking=f"127.0.0.1:{known['booking_port']}",
        ),
        asset_bucket="ticketra-assets-local",
        booking_tasks=_positive(environ, "TICKETRA_BOOKING_TASKS", 1),
        hold_ttl_s=_positive(environ, "TICKETRA_HOLD_TTL_S", 600),
        token_ttl_s=_positive(environ, "TICKETRA_TOKEN_TTL_S", 900),
        # The emulated API Gateway gives every client the same address.
        failures_per_address=_positive(environ, "TICKETRA_FAILURES_PER_ADDRESS", 1_000),
        cors_origins=_origins(environ.get("TICKETRA_CORS_ORIGINS", LOCAL_ORIGINS)),
        log_level=environ.get("TICKETRA_LOG_LEVEL", "INFO"),
        log_retention_days=7,
    )


def _access_policy(value: str) -> AccessPolicy:
    if value not in get_args(AccessPolicy):
        raise ConfigError(f"TICKETRA_ACCESS_POLICY is {value!r}: it must be 'strict' or 'open'")
    return cast("AccessPolicy", value)


def _origins(value: str) -> tuple[str, ...]:
    """Return the origins in `value`, which spaces separate; there may be none."""
    origins = tuple(value.split())
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"TICKETRA_CORS_ORIGINS holds {origin!r}: an origin is *, https://shop.example, "
                "http://localhost:5173 or http://localhost:* (any port)"
            )
    return origins


def _positive(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name, str(default))
    if not value.isdigit() or int(value) < 1:
        raise ConfigError(f"{name} is {value!r}: it must be a whole number above 0")
    return int(value)
