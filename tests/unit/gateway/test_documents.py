"""The API's document and its page, from the package that is deployed."""

import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import documents
from infra_cdk import bundling
from tests.unit.common.support import LambdaContext, api_event
from tests.unit.gateway.fakes import GatewayFunction
from ticketra.http import lambda_handler

ELSEWHERE = "127.0.0.1:9"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The function's own files as the build puts them together."""
    build = bundling.function_code("gateway", f"{sys.version_info.major}.{sys.version_info.minor}")
    directory = tmp_path_factory.mktemp("gateway")
    with zipfile.ZipFile(build.path) as archive:
        archive.extractall(directory)
    return directory


@pytest.fixture
def deployed(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayFunction]:
    monkeypatch.setattr(documents, "DIRECTORY", package / "gateway" / "static")
    documents.read_file.cache_clear()
    yield GatewayFunction(ELSEWHERE, "strict")
    documents.read_file.cache_clear()


def _get(function: GatewayFunction, path: str) -> tuple[int, dict[str, str], str]:
    answer = lambda_handler(function.app)(api_event("GET", path), LambdaContext())  # type: ignore[arg-type]
    assert answer["isBase64Encoded"] is False, "API Gateway would hand base64 on as it is"
    return answer["statusCode"], answer["headers"], answer["body"]


def test_everything_that_the_page_loads_is_served_from_here(deployed: GatewayFunction) -> None:
    status, headers, page = _get(deployed, "/api/docs")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")

    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {"docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "docs/page.js"} < set(loaded)
    for address in set(loaded) - {"data:,"}:
        status, headers, body = _get(deployed, f"/api/{address}")
        assert (status, bool(body)) == (200, True), address
        assert headers["x-content-type-options"] == "nosniff"


def test_the_page_may_talk_to_nobody_else(deployed: GatewayFunction) -> None:
    _, headers, _ = _get(deployed, "/api/docs")

    policy = dict(
        directive.strip().split(" ", 1)
        for directive in headers["content-security-policy"].split(";")
    )
    assert policy.pop("default-src") == "'none'"
    assert not [value for value in policy.values() if re.search(r"https?:|\*|unsafe-eval", value)]
    assert "unsafe-inline" not in policy["script-src"]


def test_the_page_shows_the_document_beside_it(deployed: GatewayFunction) -> None:
    _, _, script = _get(deployed, "/api/docs/page.js")

    assert 'url: "openapi.json"' in script
    assert "http" not in script


def test_only_the_pages_own_files_are_served(deployed: GatewayFunction) -> None:
    for name in ("handler.py", "page.html", "openapi.json", "..%2Fhandler.py", "../handler.py"):
        status, headers, body = _get(deployed, f"/api/docs/{name}")

        assert (status, json.loads(body)["code"]) == (404, "not_found"), name
        assert headers["content-type"] == "application/problem+json"


def test_the_document_is_served_as_it_is_kept(deployed: GatewayFunction) -> None:
    status, headers, body = _get(deployed, "/api/openapi.json")

    assert (status, headers["content-type"]) == (200, "application/json")
    assert body == (Path(documents.__file__).parent / "static/openapi.json").read_text()


def test_no_token_is_asked_for_under_either_policy(deployed: GatewayFunction) -> None:
    assert _get(deployed, "/api/docs")[0] == 200


def test_under_the_open_policy_tokens_are_optional_where_they_are() -> None:
    kept = documents.read_file("openapi.json")

    strict, free = (json.loads(documents.for_policy(kept, policy)) for policy in _POLICIES)

    assert strict == json.loads(kept)
    assert _security(free, "create_booking") == [{"bearer": []}, {}]
    assert _security(strict, "create_booking") == [{"bearer": []}]
    assert _security(free, "me") == [{"bearer": []}]
    names = {name for name in documents.OPEN_OPERATIONS if {} in _security(free, name)}
    assert names == documents.OPEN_OPERATIONS


_POLICIES: Any = ("strict", "open")


def _security(document: dict[str, Any], operation_id: str) -> Any:
    (found,) = [
        operation["security"]
        for operations in document["paths"].values()
        for operation in operations.values()
        if operation["operationId"] == operation_id
    ]
    return found
