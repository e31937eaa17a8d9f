import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor import cloud, processes
from supervisor.settings import Settings, port_fields
from tests.ports import instance_ports


@pytest.fixture(scope="package")
def make_instance() -> Iterator[Callable[[], Settings]]:
    """Make settings of instances of their own; all of it is gone at the end.

    Their home lies in a directory that only its owner enters, as a checkout below /root does.
    """
    homes: list[Settings] = []

    def make() -> Settings:
        home = Path(tempfile.mkdtemp(prefix="ticketra-test-")) / "instance"
        settings = Settings(home=home).with_ports(instance_ports())
        homes.append(settings)
        return settings

    yield make
    for settings in homes:
        cloud.down(settings)
        assert processes.marked(settings.home) == []
        shutil.rmtree(settings.home.parent)


@pytest.fixture(scope="package")
def instance(make_instance: Callable[[], Settings]) -> Settings:
    """One instance with every server running."""
    settings = make_instance()
    cloud.up(settings)
    return settings


@pytest.fixture
def running(instance: Settings) -> Settings:
    """The instance, healed from what the test before did to it."""
    cloud.up(instance)
    return instance


@pytest.fixture
def beside(instance: Settings, make_instance: Callable[[], Settings]) -> Settings:
    """Settings of a second instance, not started, beside the first that runs."""
    second = make_instance()
    assert not {getattr(instance, f.name) for f in dataclasses.fields(instance)} & {
        getattr(second, name) for name in port_fields()
    }
    return second
