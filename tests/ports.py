"""Ports for the servers of tests: none is given out twice, however many test runs there are.

A process claims ports by the block, and holds a block by having its first port bound until it ends;
the kernel lets nobody else bind it. Tasks that share a port would otherwise share it with a
stranger's, and a server that a test stops for a while would find its port taken.
"""

import socket
from collections.abc import Iterator

from supervisor.ports import is_free
from supervisor.settings import LOOPBACK, port_fields

# Below the range from which the kernel takes the ports of outgoing connections, and beside the
# ports of the plugin's tests.
BLOCK_SIZE = 200
BLOCKS = range(22_000, 32_000, BLOCK_SIZE)


class NoPortLeftError(Exception):
    """Every block is claimed, by this process or by others."""


def _claimed() -> Iterator[int]:
    claims: list[socket.socket] = []
    for first in BLOCKS:
        claim = socket.socket()
        try:
            claim.bind((LOOPBACK, first))
        except OSError:
            claim.close()
            continue
        claims.append(claim)
        yield from filter(is_free, range(first + 1, first + BLOCK_SIZE))
    raise NoPortLeftError(f"all {len(BLOCKS)} blocks of ports are claimed")


_unused = _claimed()


def free_port() -> int:
    """Return a loopback port that nobody listens on and that no other test run is given."""
    return next(_unused)


def instance_ports() -> dict[str, int]:
    """Return a free port for each port setting, for an instance of the local cloud."""
    return {name: free_port() for name in port_fields()}
