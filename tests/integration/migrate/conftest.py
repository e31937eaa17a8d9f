"""The servers of these tests."""

from collections.abc import Iterator

import pytest

from tests.integration import servers
from tests.integration.servers import Server


@pytest.fixture(scope="module")
def empty_postgres() -> Iterator[Server]:
    """A PostgreSQL that nothing was applied to."""
    with servers.postgres() as server:
        yield server
