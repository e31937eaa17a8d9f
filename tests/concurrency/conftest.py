"""The servers of these tests, and how long is waited for in them."""

import pytest

from booking import booking_store, closing_store, sale_group_store
from tests.integration.fixtures import (  # noqa: F401 - fixtures are used by name
    client,
    database,
    event_id,
    own_database,
    own_postgres,
    postgres,
    rabbitmq,
    redis,
    task,
)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whoever waits for a sale wait: on a slow machine it may take longer than in a task."""
    for module in (booking_store, closing_store, sale_group_store):
        monkeypatch.setattr(module, "SALE_WAIT_LIMIT_MS", 20_000)
