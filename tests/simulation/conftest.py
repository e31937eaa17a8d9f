"""`pytest tests/simulation --seed 1234` replays that seed, with a trace if it fails."""

from pathlib import Path

import pytest

SEEDS = 10_000
SEEDS_PER_TEST = 500


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that replays a seed."""
    parser.addoption("--seed", type=int, help="replay this seed of the simulation")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Split all seeds over several tests, unless one is replayed."""
    if "seeds" not in metafunc.fixturenames:
        return
    seed = _chosen(metafunc.config)
    if seed is None:
        starts = range(0, SEEDS, SEEDS_PER_TEST)
        metafunc.parametrize("seeds", [range(s, s + SEEDS_PER_TEST) for s in starts], ids=str)
    else:
        metafunc.parametrize("seeds", [range(seed, seed + 1)], ids=str)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A replay runs nothing else."""
    if _chosen(config) is None:
        return
    here = Path(__file__).parent
    others = [
        item
        for item in items
        if item.path.parent == here and "seeds" not in getattr(item, "fixturenames", ())
    ]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


def _chosen(config: pytest.Config) -> int | None:
    seed: int | None = config.getoption("--seed", None)
    return seed
