"""The local cloud that the end-to-end tests share: started, deployed and removed once."""

from collections.abc import Iterator

import psutil
import pytest

from supervisor import processes
from tests.e2e.cloud import Cloud, User


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path_factory.mktemp("cloud"))
    try:
        cloud.start()
        cloud.deploy()
        yield cloud
    finally:
        tasks = [*cloud.task_processes("booking.server"), *cloud.task_processes("payment.worker")]
        cloud.stop()
    assert processes.marked(cloud.settings.home) == []
    assert not [task for task in tasks if psutil.pid_exists(task.pid)]


@pytest.fixture
def organizer(cloud: Cloud) -> User:
    return cloud.register()


@pytest.fixture
def buyer(cloud: Cloud) -> User:
    return cloud.register()
