"""A function's start: settings are checked, and nothing is imported or opened before it is used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TOKENS = {"TOKEN_ISSUER": "https://issuer.test", "TOKEN_AUDIENCE": "test"}
BOOKING = {
    "BOOKING_ENDPOINT": "127.0.0.1:9",
    "BOOKING_CALLER_SECRET": "caller",
    "TOKEN_JWKS_PARAMETER": "/jwks",
}
SETTINGS = {
    "identity": TOKENS
    | {
        "ACCESS_POLICY": "strict",
        "POSTGRES_URL": "postgresql://127.0.0.1:9/auth",
        "POSTGRES_SECRET": "postgres",
        "REDIS_URL": "redis://127.0.0.1:9/0",
        "REDIS_SECRET": "redis",
        "TOKEN_KEYS_SECRET": "keys",
        "TOKEN_TTL_S": "900",
    },
    "event": TOKENS
    | BOOKING
    | {
        "ACCESS_POLICY": "strict",
        "MONGODB_URL": "mongodb://127.0.0.1:9/?replicaSet=rs0&directConnection=true",
        "MONGODB_DATABASE": "events",
        "MONGODB_SECRET": "mongodb",
        "REDIS_URL": "redis://127.0.0.1:9/0",
        "REDIS_SECRET": "redis",
        "STAGE": "test",
    },
    "gateway": TOKENS
    | BOOKING
    | {"ACCESS_POLICY": "strict", "TICKETS_JWKS_PARAMETER": "/tickets/jwks"},
}
NOT_NEEDED = {
    "identity": {"boto3", "grpc", "pymongo", "redis"},
    "event": {"boto3", "psycopg", "redis"},
    "gateway": {"boto3", "psycopg", "pymongo", "segno"},
}


def _start(
    function: str, environment: dict[str, str], script: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys, {function}.handler\n{script}"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}/functions:{ROOT}/layers/common",
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("function", SETTINGS)
def test_starts_with_every_server_away_and_only_what_it_needs(function: str) -> None:
    done = _start(function, SETTINGS[function], "print(*sys.modules)")

    assert done.returncode == 0, done.stderr
    assert not NOT_NEEDED[function] & set(done.stdout.split())


@pytest.mark.parametrize("function", SETTINGS)
def test_names_every_variable_that_is_missing(function: str) -> None:
    done = _start(function, {})

    assert done.returncode == 1
    assert "SettingsError" in done.stderr
    assert all(f"{name}: " in done.stderr for name in SETTINGS[function])


def test_refuses_lives_and_limits_out_of_bounds() -> None:
    wrong = {
        "TOKEN_TTL_S": "86401",
        "REFRESH_TTL_S": "1",
        "FAILURES_PER_ADDRESS": "0",
        "BCRYPT_COST": "99",
    }

    done = _start("identity", SETTINGS["identity"] | wrong)

    assert done.returncode == 1
    assert all(f"{name}: " in done.stderr for name in wrong)


def test_refuses_a_policy_that_there_is_not() -> None:
    done = _start("gateway", SETTINGS["gateway"] | {"ACCESS_POLICY": "none"})

    assert done.returncode == 1
    assert "ACCESS_POLICY" in done.stderr
