"""Builds what is deployed: layers, function code and process images, each named by its content.

A build is keyed by a digest of everything that goes into it, so an unchanged one is found instead
of built again, and a changed one gets a new name, which is what makes CDK replace it.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra_cdk.config import ROOT

BUILDS = ROOT / ".local" / "build"
COMMON_LAYER = ROOT / "layers" / "common"
VENDOR_REQUIREMENTS = ROOT / "layers" / "vendor" / "requirements.txt"
FUNCTIONS = ROOT / "functions"
_SWAGGER_UI = ROOT / "node_modules" / "swagger-ui-dist"
_COPIES: Mapping[str, Mapping[str, Path]] = {
    "gateway": {
        "static/swagger-ui.css": _SWAGGER_UI / "swagger-ui.css",
        "static/swagger-ui-bundle.js": _SWAGGER_UI / "swagger-ui-bundle.js",
        "static/swagger-ui-bundle.js.LICENSE.txt": _SWAGGER_UI / "swagger-ui-bundle.js.LICENSE.txt",
        "static/swagger-ui.LICENSE.txt": _SWAGGER_UI / "LICENSE",
    }
}
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyi", "requirements.in", "requirements.txt")
_BUILD_FORMAT = "2"
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
_FILE_MODE = 0o100644


class BundlingError(Exception):
    """A layer, a function or an image could not be built; the message says why."""


@dataclass(frozen=True, slots=True)
class Build:
    """A zip file; `digest` is a hex digest of all that went into it."""

    path: Path
    digest: str


@dataclass(frozen=True, slots=True)
class _Recipe:
    name: str
    python_version: str
    trees: Mapping[str, Path]
    """destination inside the build → source directory"""
    requirements: Path | None = None
    requirements_into: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    """destination → text"""
    copies: Mapping[str, Path] = field(default_factory=dict)
    """destination → source file"""


def vendor_layer(python_version: str) -> Build:
    """Build the Lambda layer with the pinned third-party packages."""
    return _build(
        _Recipe("vendor-layer", python_version, {}, VENDOR_REQUIREMENTS, requirements_into="python")
    )


def common_layer(python_version: str) -> Build:
    """Build the Lambda layer with the code that several functions share."""
    return _build(
        _Recipe("common-layer", python_version, {"python/ticketra": COMMON_LAYER / "ticketra"})
    )


def function_code(name: str, python_version: str) -> Build:
    """Build the code of the Lambda function `name`.

    Raises:
        BundlingError: a file that it takes from a package is not installed.

    """
    copies = {f"{name}/{target}": source for target, source in _COPIES.get(name, {}).items()}
    for source in copies.values():
        if not source.exists():
            raise BundlingError(f"{source} is missing: run 'make up' first")
    return _build(
        _Recipe(f"{name}-function", python_version, {name: FUNCTIONS / name}, copies=copies)
    )


def process_image(name: str, python_version: str) -> Build:
    """Build what a local ECS task runs: the service, the common layer and its dependencies."""
    image = {
        "python": python_version,
        "working_dir": "app",
        "env": {"PYTHONPATH": "app:deps"},
        "entrypoint": [],
        "command": ["python", "-m", name],
    }
    return _build(
        _Recipe(
            f"{name}-image",
            python_version,
            {f"app/{name}": FUNCTIONS / name, "app/ticketra": COMMON_LAYER / "ticketra"},
            FUNCTIONS / name / "requirements.txt",
            requirements_into="deps",
            files={"image.json": json.dumps(image, indent=2)},
        )
    )


def digest_of(paths: Iterable[Path]) -> str:
    """Return a hex digest of the names and contents of all files below `paths`."""
    digest = hashlib.sha256()
    for file in sorted(f for path in paths for f in _files(path)):
        digest.update(f"{file.relative_to(ROOT)}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _files(path: Path) -> Iterable[Path]:
    if path.is_file():
        return [path]
    return [f for f in path.rglob("*") if f.is_file() and "__pycache__" not in f.parts]


def _build(recipe: _Recipe) -> Build:
    digest = _digest(recipe)
    target = BUILDS / f"{recipe.name}-{digest[:16]}.zip"
    if not target.exists():
        BUILDS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILDS, prefix=f".{recipe.name}-") as scratch:
            _make(recipe, Path(scratch) / "build")
            _zip(Path(scratch) / "build", Path(scratch) / "build.zip")
            (Path(scratch) / "build.zip").rename(target)
        _remove_older(recipe.name, target)
    return Build(target, digest)


def _digest(recipe: _Recipe) -> str:
    sources = [*recipe.trees.values(), *recipe.copies.values()]
    sources += [recipe.requirements] if recipe.requirements else []
    parts = [
        _BUILD_FORMAT,
        recipe.name,
        recipe.python_version,
        os.uname().machine,
        json.dumps(dict(recipe.files), sort_keys=True),
        json.dumps(list(recipe.copies)),
        digest_of(sources),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _make(recipe: _Recipe, target: Path) -> None:
    target.mkdir()
    for destination, source in recipe.trees.items():
        shutil.copytree(source, target / destination, ignore=_IGNORED)
    for destination, source in recipe.copies.items():
        shutil.copyfile(source, target / destination)
    for destination, text in recipe.files.items():
        (target / destination).write_text(text)
    if recipe.requirements is not None:
        _install(recipe.requirements, target / recipe.requirements_into, recipe.python_version)
    _compile(target, recipe.python_version)


def _install(requirements: Path, into: Path, python_version: str) -> None:
    command = [_uv(), "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--python-version", python_version]
    command += ["--link-mode", "copy", "--target", str(into), "--requirements", str(requirements)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise BundlingError(f"uv could not install {requirements}:\n{error.stderr}") from None
    shutil.rmtree(into / "bin", ignore_errors=True)


def _compile(target: Path, python_version: str) -> None:
    """Write byte code that stays valid whatever the unpacked files' times are.

    Only an interpreter of the declared version can write it; another one leaves it out, which costs
    time at a cold start and nothing else.
    """
    if python_version != f"{sys.version_info.major}.{sys.version_info.minor}":
        return
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0"]
    command += ["--invalidation-mode", "unchecked-hash", "-s", str(target), str(target)]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _uv() -> str:
    own = ROOT / ".local" / "env" / "uv" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise BundlingError("uv is not installed: run 'make up' first")
    return found


def _zip(directory: Path, target: Path) -> None:
    """Zip `directory` so that equal contents make equal files.

    Done here, once for each build, because CDK's own zipping takes longest of all that it does.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in sorted(f for f in directory.rglob("*") if f.is_file()):
            entry = zipfile.ZipInfo(str(file.relative_to(directory)), _ZIP_EPOCH)
            entry.external_attr = _FILE_MODE << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes(), compresslevel=1)


def _remove_older(name: str, newest: Path) -> None:
    for old in BUILDS.glob(f"{name}-*"):
        if old != newest:
            old.unlink(missing_ok=True)
