from collections.abc import Iterator

import pytest
from local_cloud import LocalCloud, wait_until


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """One LocalStack for all tests that only talk to it."""
    running = LocalCloud(tmp_path_factory.mktemp("cloud"))
    running.client("ecs").create_cluster(clusterName="test")
    yield running
    running.stop()
    wait_until(lambda: running.left_processes() == [], what="nothing of LocalStack is left")
