"""One digest of all that a deployment is made from, so that an unchanged one can be skipped."""

import hashlib
import json
from dataclasses import asdict

from infra_cdk.bundling import digest_of
from infra_cdk.config import ROOT, StageConfig

_SOURCES = (
    "infra_cdk",
    "functions",
    "layers",
    "cdk.json",
    "package-lock.json",
    "requirements-dev.txt",
)


def source_digest(config: StageConfig) -> str:
    """Return a hex digest of the sources and the settings of a deployment."""
    settings = json.dumps(asdict(config), sort_keys=True)
    sources = digest_of(ROOT / name for name in _SOURCES)
    return hashlib.sha256(f"{settings}\0{sources}".encode()).hexdigest()
