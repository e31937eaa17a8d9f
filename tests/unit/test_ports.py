"""The ports that tests give their servers."""

import subprocess
import sys
from contextlib import ExitStack

from supervisor.settings import REPOSITORY, port_fields
from tests import ports

COUNT = ports.BLOCK_SIZE + 10  # more than one block holds
TAKE = f"""
from tests.ports import free_port
print(*(free_port() for _ in range({COUNT})), flush=True)
input()
"""


def test_processes_side_by_side_are_given_different_ports() -> None:
    with ExitStack() as stack:
        takers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-P", "-c", TAKE],
                    env={"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'localstack'}"},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(2)
        ]
        taken: list[int] = []
        for taker in takers:
            assert taker.stdout is not None
            taken += map(int, taker.stdout.readline().split())
        for taker in takers:
            taker.communicate("\n")

    assert len(taken) == len(set(taken)) == 2 * COUNT
    assert ports.BLOCKS.start <= min(taken)
    assert max(taken) < ports.BLOCKS.stop < 32_768


def test_every_port_of_an_instance_is_another() -> None:
    found = ports.instance_ports()

    assert set(found) == set(port_fields())
    assert len(set(found.values())) == len(found)
