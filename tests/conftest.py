"""Which tests may run side by side, when there are several workers (`pytest -n 2`)."""

from collections import Counter
from pathlib import PurePosixPath

import pytest
from xdist.scheduler import LoadScopeScheduling

# Their tests share servers that take longer to start than the tests take to run.
KEPT_TOGETHER = (
    "tests/e2e",
    "tests/integration/event",
    "tests/integration/identity",
    "tests/integration/payment",
    "tests/integration/supervisor",
)


class FileScheduling(LoadScopeScheduling):  # type: ignore[misc] # it comes without types
    """Gives a worker a file at a time, or a whole directory where one is kept together."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        parents = {str(parent) for parent in PurePosixPath(file).parents}
        return next((kept for kept in KEPT_TOGETHER if kept in parents), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> FileScheduling:
    """Replace xdist's own ways to share out tests."""
    # In the order of collection: what takes long comes first, and the short unit tests fill in.
    config.option.loadscopereorder = False
    return FileScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse tests that share an id: a worker is told ids, and would run one of them."""
    shared = [
        nodeid for nodeid, count in Counter(item.nodeid for item in items).items() if count > 1
    ]
    if shared:
        raise pytest.UsageError(f"tests share an id: {', '.join(shared)}")
