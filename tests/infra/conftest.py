"""The synthesised template of the local stage, built once for all tests of this directory."""

import json
import sys
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Template

from infra_cdk.config import StageConfig, load_config
from infra_cdk.stacks.ticketra import TicketraStack

ENDPOINTS = {
    "postgres_url": "postgresql://127.0.0.1:1",
    "redis_url": "redis://127.0.0.1:2/0",
    "rabbitmq_url": "amqp://127.0.0.1:3/%2F",
    "mongodb_url": "mongodb://127.0.0.1:4/?replicaSet=rs0",
    "booking_port": 5,
    # The running version, so that these tests build what a deployment of this machine builds.
    "python": f"{sys.version_info.major}.{sys.version_info.minor}",
}


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> StageConfig:
    home: Path = tmp_path_factory.mktemp("home")
    (home / "endpoints.json").write_text(json.dumps(ENDPOINTS))
    return load_config("local", {"TICKETRA_HOME": str(home), "TICKETRA_BOOKING_TASKS": "2"})


@pytest.fixture(scope="session")
def template(config: StageConfig) -> Template:
    app = cdk.App()
    return Template.from_stack(TicketraStack(app, "Ticketra", config=config))
