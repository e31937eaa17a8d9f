"""Ports: is one free, and who holds it if not."""

import contextlib
import socket
import time
from collections.abc import Mapping

import psutil

from supervisor.settings import LOOPBACK, port_variable

# A server that was just killed, or the children that die with it, may hold a port a moment longer.
RELEASE_TIMEOUT_S = 3.0
_POLL_INTERVAL_S = 0.1


class PortTakenError(Exception):
    """A port is held by somebody else; the message names it, its holder and its setting."""


def is_free(port: int) -> bool:
    """Tell whether a server could listen on `port` of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def require_free(wanted: Mapping[str, int]) -> None:
    """Check ports, given by their settings' field names.

    Raises:
        PortTakenError: naming each one that is not free.

    """
    deadline = time.monotonic() + RELEASE_TIMEOUT_S
    taken = {name: port for name, port in wanted.items() if not is_free(port)}
    while taken and time.monotonic() < deadline:
        time.sleep(_POLL_INTERVAL_S)
        taken = {name: port for name, port in taken.items() if not is_free(port)}
    if taken:
        raise PortTakenError(
            "\n".join(message(name, port, holder(port)) for name, port in taken.items())
        )


def message(field_name: str, port: int, holder_text: str) -> str:
    """Return what to tell the user about a port that is taken."""
    return (
        f"Port {port} is taken by {holder_text}; stop that, or set "
        f"{port_variable(field_name)} to a free port."
    )


def holder(port: int) -> str:
    """Describe the process that listens on `port`, as far as this user may see it."""
    with contextlib.suppress(psutil.AccessDenied):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
            if listens and connection.pid is not None:
                return _describe(connection.pid)
    return "a process of another user"


def _describe(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).name()} (process {pid})"
    except psutil.NoSuchProcess:
        return f"process {pid}"
