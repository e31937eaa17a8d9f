"""The servers of these tests."""

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
