"""The deployed API against its OpenAPI document, with requests that schemathesis makes from it.

Every answer has to have a documented status, content type, headers and body, and none may be a 5xx.
Requests that the document forbids must be refused, and so must callers without a valid token. The
requests follow from FUZZ_SEED; `make fuzz` sends more of them, from another seed each time.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import requests
import schemathesis
from schemathesis import Case, Config
from schemathesis.specs.openapi.schemas import OpenApiSchema

from tests.e2e.cloud import Cloud
from tests.e2e.real_things import RealThings

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "openapi" / "openapi.json"
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "5"))
"""random requests for each operation and caller; those on the document's limits come on top"""
SEED = int(os.environ.get("FUZZ_SEED", "1"))
REQUEST_LIMIT_S = 30

# API Gateway has neither TRACE nor QUERY: to it they are requests to paths that do not exist.
METHODS = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"]

# 422: a schema cannot say all rules (whose id, which currency, which date first). 412 and 428: it
# cannot say that a change needs the tag of the event as it is.
ACCEPTABLE = ["2xx", "304", "401", "403", "404", "409", "412", "422", "428", "429"]


def _requests(mode: Literal["all", "positive"]) -> OpenApiSchema:
    """Return what makes the requests; `positive` ones are those that the document allows."""
    config = {
        "seed": SEED,
        "generation": {"mode": mode, "max-examples": EXAMPLES, "database": "none"},
        "phases": {"coverage": {"unexpected-methods": METHODS}},
        "checks": {"positive_data_acceptance": {"expected-statuses": ACCEPTABLE}},
    }
    return schemathesis.openapi.from_path(DOCUMENT, config=Config.from_dict(config))


made_up = _requests("all")
allowed = _requests("positive")


class Caller:
    """Sends requests to the deployed API and checks the answers."""

    def __init__(self, url: str, things: RealThings) -> None:
        self.things = things
        self.succeeded: Counter[str] = Counter()
        """operations that were called with real things → answers with 2xx"""
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False

    def call(self, case: Case[Any], headers: dict[str, str]) -> schemathesis.Response:
        return case.call_and_validate(
            base_url=self._url, session=self._session, headers=headers, timeout=REQUEST_LIMIT_S
        )

    def close(self) -> None:
        self._session.close()


@pytest.fixture(scope="module")
def caller(cloud: Cloud) -> Iterator[Caller]:
    caller = Caller(cloud.settings.api_url, RealThings(cloud))
    yield caller
    caller.close()
    assert [name for name, count in caller.succeeded.items() if not count] == []


def test_the_deployed_document_is_the_reviewed_one(cloud: Cloud) -> None:
    assert cloud.api.get("/api/openapi.json").json() == json.loads(DOCUMENT.read_text())


@pytest.mark.timeout(0)
@pytest.mark.parametrize("known", [True, False], ids=["user", "anonymous"])
@made_up.parametrize()
def test_made_up_requests(caller: Caller, known: bool, case: Case[Any]) -> None:
    if not _is_beyond_the_gateway(case):
        caller.call(case, caller.things.user.headers if known else {})


# schemathesis names the operation in a test's id only beside a parameter; with one id for all of
# them, pytest's workers would run one.
@pytest.mark.timeout(0)
@pytest.mark.parametrize("who", ["user"])
@allowed.parametrize()
def test_requests_about_real_things(caller: Caller, who: str, case: Case[Any]) -> None:
    if _is_beyond_the_gateway(case):
        return
    caller.things.put_into(case)
    response = caller.call(case, getattr(caller.things, who).headers)
    caller.things.learn(case, response)
    caller.succeeded[case.operation.label] += 200 <= response.status_code < 300


def _is_beyond_the_gateway(case: Case[Any]) -> bool:
    """Tell whether LocalStack's gateway fails by itself, before any function is called.

    It looks for a multipart body's boundary and answers 500 if the header names none; AWS's does
    not read bodies.
    """
    content_type = str(case.headers.get("Content-Type", ""))
    return content_type.startswith("multipart/") and "boundary=" not in content_type
