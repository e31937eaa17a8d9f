"""Bad tokens at the door: what every function answers, through its real entry point."""

import json
from typing import Any, get_args

import pytest
from fastapi import APIRouter

from tests.unit.common.attacks import ATTACKS, EXPIRED, KEY
from tests.unit.common.support import USER_ID, LambdaContext, api_event
from ticketra.auth import AccessPolicy, Caller
from ticketra.http import create_app, lambda_handler

router = APIRouter()


@router.get("/who")
def who(caller: Caller) -> dict[str, str]:
    return {"user_id": "nobody" if caller is None else caller.user_id}


def _ask(policy: AccessPolicy, authorization: str | None) -> tuple[int, Any, dict[str, str]]:
    app = create_app("test", router, verifier=KEY.verifier(), policy=policy)
    headers = {} if authorization is None else {"Authorization": authorization}
    event = api_event("GET", "/who", headers=headers)
    answer = lambda_handler(app)(event, LambdaContext())  # type: ignore[arg-type]
    return answer["statusCode"], json.loads(answer["body"]), answer["headers"]


@pytest.mark.parametrize("policy", get_args(AccessPolicy))
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_bad_token_is_refused_under_every_policy(policy: AccessPolicy, attack: str) -> None:
    status, problem, headers = _ask(policy, f"Bearer {ATTACKS[attack]()}")

    assert (status, problem["code"]) == (401, "invalid_token")
    assert headers["www-authenticate"] == 'Bearer realm="ticketra"'


@pytest.mark.parametrize("policy", get_args(AccessPolicy))
def test_an_expired_token_is_refused_under_every_policy(policy: AccessPolicy) -> None:
    status, problem, headers = _ask(policy, f"Bearer {EXPIRED()}")

    assert (status, problem["code"]) == (401, "token_expired")
    assert headers["www-authenticate"] == 'Bearer realm="ticketra"'


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "Bearer ", "", "token"])
def test_another_kind_of_credential_is_refused(header: str) -> None:
    status, problem, headers = _ask("open", header)

    assert (status, problem["code"]) == (401, "invalid_token")
    assert "www-authenticate" in headers


def test_a_good_token_and_none() -> None:
    good = f"Bearer {KEY.token()}"

    assert _ask("strict", good)[:2] == _ask("open", good)[:2] == (200, {"user_id": USER_ID})
    assert _ask("open", None)[:2] == (200, {"user_id": "nobody"})
    status, problem, headers = _ask("strict", None)
    assert (status, problem["code"]) == (401, "authentication_required")
    assert "www-authenticate" in headers
