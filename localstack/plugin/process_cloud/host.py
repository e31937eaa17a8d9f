"""What the parts of the plugin share inside one LocalStack: made at first use."""

import tempfile
import threading
from functools import cached_property
from pathlib import Path

from localstack import config
from process_cloud.images import ImageStore
from process_cloud.interpreters import Interpreters
from process_cloud.lambda_layers import LayerStore
from process_cloud.logs import LogShipper
from process_cloud.settings import Settings, settings
from process_cloud.spawner import Spawner


class Host:
    """The processes, directories and logs of this LocalStack."""

    def __init__(self, configured: Settings) -> None:
        self.settings = configured
        self.directory = Path(tempfile.mkdtemp(prefix="process-cloud-"))
        self.spawner = Spawner(self.directory)
        self.logs = LogShipper()
        self.interpreters = Interpreters(self.directory / "python", configured.interpreters)
        self.layers = LayerStore(self.directory / "opt")

    @cached_property
    def images(self) -> ImageStore:
        """Return the images of tasks; they are kept from run to run."""
        return ImageStore(Path(config.dirs.cache) / "process-images")

    def private_directory(self, name: str) -> Path:
        """Make a directory for one execution environment or container."""
        private = self.directory / "private" / name
        (private / "tmp").mkdir(parents=True)
        return private


_lock = threading.Lock()
_host: Host | None = None


def host() -> Host:
    """Return this LocalStack's host."""
    global _host  # noqa: PLW0603 - one LocalStack is one process
    with _lock:
        if _host is None:
            _host = Host(settings())
        return _host
