import os
import socket
from collections.abc import Iterator

import pytest

from supervisor import ports
from tests.ports import free_port


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that this process listens on while the test runs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port: int = listener.getsockname()[1]
        yield port


def test_a_taken_port_is_named_with_its_holder_and_its_setting(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "RELEASE_TIMEOUT_S", 0)
    free = free_port()

    with pytest.raises(ports.PortTakenError) as error:
        ports.require_free({"redis_port": free, "api_port": taken})

    text = str(error.value)
    assert f"Port {taken} is taken by " in text
    assert f"(process {os.getpid()})" in text
    assert "TICKETRA_API_PORT" in text
    assert str(free) not in text


def test_a_port_that_somebody_holds_on_every_address_is_taken() -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()

        assert not ports.is_free(listener.getsockname()[1])


def test_a_connection_that_ended_does_not_hold_a_port() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as every server does
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server_side, _ = listener.accept()
            server_side.close()  # first, so that this end waits in TIME_WAIT

    assert ports.is_free(port)
