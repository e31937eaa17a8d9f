"""The servers of these tests."""

from tests.integration.fixtures import (  # noqa: F401 - fixtures are used by name
    own_postgres,
)
