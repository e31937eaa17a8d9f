"""Slowing down guesses: the rules, and what they look like through HTTP."""

from datetime import timedelta
from typing import Any

import bcrypt
import httpx
import pytest

from identity import slow_down
from identity.slow_down import (
    ACCOUNT_ALLOWANCE,
    FORGET_AFTER_MS,
    LOCAL_COUNTERS_LIMIT,
    LONGEST_WAIT_MS,
    LocalAttempts,
    SlowDown,
    Subject,
    wait_ms,
)
from tests.unit.common.support import LambdaContext, api_event
from tests.unit.identity.fakes import ADDRESS_ALLOWANCE, Identity
from ticketra.errors import TooManyRequests, Unauthenticated, Unavailable
from ticketra.http import lambda_handler

ANNA = {"email": "anna@example.com", "password": "correct horse"}
GUESS = ANNA | {"password": "incorrect horse"}
ACCOUNT = Subject("account", ACCOUNT_ALLOWANCE, is_account=True)
ADDRESS = Subject("address", ADDRESS_ALLOWANCE, is_account=False)


class Clock:
    """Milliseconds that a test counts."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def attempts(clock: Clock) -> LocalAttempts:
    return LocalAttempts(clock)


@pytest.fixture
def identity() -> Identity:
    identity = Identity()
    identity.http.post("/api/auth/register", json=ANNA)
    return identity


def _log_in(identity: Identity, body: Any = GUESS) -> httpx.Response:
    answer: httpx.Response = identity.http.post("/api/auth/login", json=body)
    return answer


def _fail(attempts: LocalAttempts, times: int) -> None:
    for _ in range(times):
        assert attempts.begin(ACCOUNT, ADDRESS) == 0


def test_the_waits_double_from_one_second_to_a_minute() -> None:
    waits_s = [wait_ms(failures, 5) / 1000 for failures in range(4, 13)]

    assert waits_s == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert wait_ms(10**9, 5) == LONGEST_WAIT_MS


def test_each_failure_past_the_allowance_doubles_the_wait(
    attempts: LocalAttempts, clock: Clock
) -> None:
    _fail(attempts, ACCOUNT_ALLOWANCE)
    for wait in (1000, 2000, 4000):
        assert attempts.begin(ACCOUNT, ADDRESS) == wait
        clock.now_ms += wait - 1
        assert attempts.begin(ACCOUNT, ADDRESS) == 1  # and asking has not made it longer
        clock.now_ms += 1
        _fail(attempts, 1)


def test_tries_at_the_same_time_are_not_let_through_together(attempts: LocalAttempts) -> None:
    """None of them has ended when the last one begins."""
    waits = [attempts.begin(ACCOUNT, ADDRESS) for _ in range(ACCOUNT_ALLOWANCE + 3)]

    assert waits == [0] * ACCOUNT_ALLOWANCE + [1000] * 3


def test_a_success_forgets_the_failures_of_the_account_but_not_of_the_address(
    attempts: LocalAttempts,
) -> None:
    for _ in range(ADDRESS_ALLOWANCE // 4):
        _fail(attempts, 4)
        if attempts.begin(ACCOUNT, ADDRESS) == 0:
            attempts.succeed(ACCOUNT, ADDRESS)

    other = Subject("another account", ACCOUNT_ALLOWANCE, is_account=True)
    assert attempts.begin(ACCOUNT, ADDRESS) == attempts.begin(other, ADDRESS) > 0
    assert attempts.begin(other, Subject("another address", 5, is_account=False)) == 0


def test_a_try_that_was_not_judged_counts_for_nothing(attempts: LocalAttempts) -> None:
    for _ in range(3 * ADDRESS_ALLOWANCE):
        assert attempts.begin(ACCOUNT, ADDRESS) == 0
        attempts.take_back(ACCOUNT, ADDRESS)


def test_failures_are_forgotten_after_a_while(attempts: LocalAttempts, clock: Clock) -> None:
    _fail(attempts, ACCOUNT_ALLOWANCE - 1)
    clock.now_ms += FORGET_AFTER_MS

    _fail(attempts, ACCOUNT_ALLOWANCE - 1)
    clock.now_ms += FORGET_AFTER_MS - 1  # not yet, after the last failure
    _fail(attempts, 1)

    assert attempts.begin(ACCOUNT, ADDRESS) > 0


def test_an_address_starts_anew_however_many_fail_behind_it(
    attempts: LocalAttempts, clock: Clock
) -> None:
    """An account's failures are in a row, an address's are those of a while."""
    for number in range(10 * ADDRESS_ALLOWANCE):
        account = Subject(f"account {number}", ACCOUNT_ALLOWANCE, is_account=True)
        assert attempts.begin(account, ADDRESS) == 0
        clock.now_ms += FORGET_AFTER_MS // (ADDRESS_ALLOWANCE - 1)


def test_the_memory_of_one_process_is_bounded(attempts: LocalAttempts) -> None:
    for number in range(LOCAL_COUNTERS_LIMIT):
        account = Subject(f"account {number}", ACCOUNT_ALLOWANCE, is_account=True)
        attempts.begin(account, Subject(f"address {number}", 5, is_account=False))

    assert len(attempts._counters) == LOCAL_COUNTERS_LIMIT


def test_names_are_not_shown_and_an_ipv6_site_has_one(attempts: LocalAttempts) -> None:
    limiter = SlowDown(attempts, address_allowance=5)
    site = ["2001:db8::1", "2001:db8:0:0:ffff::2"]
    for number, address in enumerate(
        [*site, "2001:db8:0:1::1", "192.0.2.1", "::ffff:192.0.2.1", "?"]
    ):
        email = f"anna{number}@example.com"
        with pytest.raises(Unauthenticated), limiter.attempt(email, address):
            raise Unauthenticated("no", "No.")

    assert not any("anna" in key or "192" in key for key in attempts._counters)
    failures = [c.failures for key, c in attempts._counters.items() if "address" in key]
    assert failures == [2, 1, 2, 1]


def test_an_outage_is_nobodys_failure(attempts: LocalAttempts) -> None:
    limiter = SlowDown(attempts, address_allowance=5)

    for _ in range(20):
        with pytest.raises(Unavailable), limiter.attempt("anna@example.com", "192.0.2.1"):
            raise Unavailable("away", "Away.")

    assert attempts._counters == {}


def test_the_wait_is_told_in_whole_seconds_that_suffice(
    attempts: LocalAttempts, clock: Clock
) -> None:
    limiter = SlowDown(attempts, address_allowance=50)
    for _ in range(ACCOUNT_ALLOWANCE + 1):
        with pytest.raises(Unauthenticated), limiter.attempt("anna@example.com", "192.0.2.1"):
            raise Unauthenticated("no", "No.")
        clock.now_ms += 1000
    clock.now_ms += -1000 + 1  # 1,999 ms are left of two seconds

    with (
        pytest.raises(TooManyRequests) as caught,
        limiter.attempt("anna@example.com", "192.0.2.1"),
    ):
        pytest.fail("was let through")

    assert caught.value.retry_after_s == 2


def test_after_five_failures_even_the_right_password_has_to_wait(identity: Identity) -> None:
    assert [_log_in(identity).status_code for _ in range(6)] == [401] * 5 + [429]

    refused = _log_in(identity, ANNA)
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_attempts")
    assert refused.headers["retry-after"] == "1"

    identity.passed += timedelta(seconds=1)
    assert _log_in(identity, ANNA).status_code == 200
    assert [_log_in(identity).status_code for _ in range(6)] == [401] * 5 + [429]


def test_who_has_to_wait_costs_us_no_hash(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        _log_in(identity)
    monkeypatch.setattr(bcrypt, "checkpw", lambda *_: pytest.fail("a hash was checked"))
    monkeypatch.setattr(identity.users, "find_by_email", lambda *_: pytest.fail("looked up"))

    assert _log_in(identity).status_code == 429


def test_an_address_without_an_account_is_slowed_down_in_the_same_way(identity: Identity) -> None:
    def shown(email: str) -> list[Any]:
        answers = []
        for _ in range(8):
            answer = _log_in(identity, GUESS | {"email": email})
            headers = {k: v for k, v in answer.headers.items() if k != "x-request-id"}
            answers.append((answer.status_code, answer.json() | {"request_id": ""}, headers))
            identity.passed += timedelta(milliseconds=500)
        return answers

    known, unknown = shown("anna@example.com"), shown("bea@example.com")

    assert known == unknown
    assert {status for status, *_ in known} == {401, 429}


def test_an_account_is_one_however_its_address_is_written(identity: Identity) -> None:
    for email in ("Anna@example.com", " anna@example.com", "ANNA@EXAMPLE.COM") * 2:
        last = _log_in(identity, GUESS | {"email": email})

    assert last.status_code == 429


def test_guesses_at_many_accounts_from_one_address_are_slowed_down(identity: Identity) -> None:
    statuses = [
        _log_in(identity, GUESS | {"email": f"user{number}@example.com"}).status_code
        for number in range(ADDRESS_ALLOWANCE + 1)
    ]

    assert statuses == [401] * ADDRESS_ALLOWANCE + [429]


def test_the_client_address_is_what_api_gateway_saw(identity: Identity) -> None:
    handler = lambda_handler(identity.app)

    def guess(number: int, source: str) -> int:
        body = GUESS | {"email": f"user{number}@example.com"}
        forged = {
            "X-Forwarded-For": f"198.51.100.{number}",
            "Forwarded": f"for=198.51.100.{number}",
        }
        event = api_event("POST", "/api/auth/login", body, headers=forged)
        event["requestContext"]["identity"]["sourceIp"] = source
        status: int = handler(event, LambdaContext())["statusCode"]  # type: ignore[arg-type]
        return status

    for number in range(ADDRESS_ALLOWANCE):
        assert guess(number, "192.0.2.1") == 401

    assert guess(100, "192.0.2.1") == 429
    assert guess(101, "192.0.2.2") == 401


def test_the_current_password_cannot_be_guessed_beside_the_login(identity: Identity) -> None:
    token = _log_in(identity, ANNA).json()["token"]

    def guess() -> int:
        body = {"current_password": "incorrect horse", "new_password": "battery staple"}
        bearer = {"Authorization": f"Bearer {token}"}
        answer = identity.http.post("/api/auth/password", json=body, headers=bearer)
        return int(answer.status_code)

    assert [guess() for _ in range(3)] == [401] * 3
    assert [_log_in(identity).status_code for _ in range(2)] == [401] * 2

    assert guess() == 429
    assert _log_in(identity).status_code == 429


def test_a_wait_is_no_longer_than_said(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_down, "FIRST_WAIT_MS", LONGEST_WAIT_MS)
    for _ in range(5):
        _log_in(identity)

    identity.passed += timedelta(seconds=int(_log_in(identity).headers["retry-after"]))

    assert _log_in(identity, ANNA).status_code == 200
