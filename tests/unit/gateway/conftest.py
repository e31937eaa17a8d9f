from collections.abc import Iterator

import pytest

from tests.unit.common.support import Running, running_booking
from tests.unit.gateway.fakes import GatewayFunction


@pytest.fixture
def booking() -> Iterator[Running]:
    with running_booking() as running:
        yield running


@pytest.fixture
def strict(booking: Running) -> Iterator[GatewayFunction]:
    function = GatewayFunction(booking.endpoint, "strict")
    yield function
    function.client.close()


@pytest.fixture
def free(booking: Running) -> Iterator[GatewayFunction]:
    """The gateway under the open policy."""
    function = GatewayFunction(booking.endpoint, "open")
    yield function
    function.client.close()
