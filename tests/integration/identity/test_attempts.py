"""Counters of failed logins in a real Redis, and without it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from identity import attempt_store
from identity.attempt_store import REDIS_PAUSE_MS, SharedAttempts, connect
from identity.slow_down import (
    ACCOUNT_ALLOWANCE,
    FORGET_AFTER_MS,
    LONGEST_WAIT_MS,
    SlowDown,
    Subject,
    wait_ms,
)
from tests.integration.identity.conftest import redis_client
from tests.integration.servers import PASSWORD, Server
from ticketra.errors import Unauthenticated

ACCOUNT = Subject("login:account:a", ACCOUNT_ALLOWANCE, is_account=True)
ADDRESS = Subject("login:address:b", 100, is_account=False)
RACERS = 16


class Environment:
    """One execution environment, with a clock that the test sets."""

    def __init__(self, url: str) -> None:
        self.now_ms = 0
        self.opened = 0
        self._url = url
        self.attempts = SharedAttempts(self._open, lambda: self.now_ms)

    def begin(self, account: Subject = ACCOUNT, address: Subject = ADDRESS) -> int:
        return self.attempts.begin(account, address)

    def _open(self) -> redis.Redis:
        self.opened += 1
        return connect(self._url, "", PASSWORD)


@pytest.fixture
def environment(counters: Server) -> Iterator[Environment]:
    environment = Environment(counters.url)
    yield environment
    environment.attempts.close()


@pytest.fixture
def client(counters: Server) -> Iterator[redis.Redis]:
    with redis_client(counters) as client:
        yield client


@pytest.fixture
def _long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause of this machine is no end of a wait."""
    monkeypatch.setattr(attempt_store, "FIRST_WAIT_MS", LONGEST_WAIT_MS)


def _wait_is_over(client: redis.Redis) -> None:
    for subject in (ACCOUNT, ADDRESS):
        client.hdel(subject.key, "not_before")


def test_waits_as_the_rule_says(environment: Environment, client: redis.Redis) -> None:
    for failures in range(1, ACCOUNT_ALLOWANCE + 9):
        before_ms = _server_ms(client)
        assert environment.begin() == 0
        after_ms = _server_ms(client)

        not_before_ms = int(client.hget(ACCOUNT.key, "not_before") or 0)
        if failures < ACCOUNT_ALLOWANCE:
            assert not_before_ms == 0
        else:
            began_ms = not_before_ms - wait_ms(failures, ACCOUNT_ALLOWANCE)
            assert before_ms <= began_ms <= after_ms
        _wait_is_over(client)


def _server_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()
    return int(seconds) * 1000 + int(micros) // 1000


@pytest.mark.usefixtures("_long_waits")
def test_all_environments_count_together(environment: Environment, counters: Server) -> None:
    other = Environment(counters.url)

    waits = [e.begin() for _ in range(ACCOUNT_ALLOWANCE) for e in (environment, other)]

    other.attempts.close()
    assert waits[:ACCOUNT_ALLOWANCE] == [0] * ACCOUNT_ALLOWANCE
    assert all(0 < wait <= LONGEST_WAIT_MS for wait in waits[ACCOUNT_ALLOWANCE:])


@pytest.mark.usefixtures("_long_waits")
def test_of_many_at_once_no_more_than_the_allowance_are_let_through(counters: Server) -> None:
    together = threading.Barrier(RACERS)

    def race(_: int) -> int:
        environment = Environment(counters.url)
        environment.begin(Subject("login:account:warm", 5, is_account=True), ADDRESS)
        environment.attempts.take_back(Subject("login:account:warm", 5, is_account=True), ADDRESS)
        together.wait(10)
        try:
            return environment.begin()
        finally:
            environment.attempts.close()

    with ThreadPoolExecutor(RACERS) as pool:
        waits = list(pool.map(race, range(RACERS)))

    assert waits.count(0) == ACCOUNT_ALLOWANCE


def test_counting_after_looking_would_let_all_of_them_through(client: redis.Redis) -> None:
    """The negative control of the race above: the same in two steps."""
    together = threading.Barrier(RACERS)

    def race(_: int) -> int:
        failures = int(client.hget(ACCOUNT.key, "failures") or 0)
        together.wait(10)
        client.hincrby(ACCOUNT.key, "failures", 1)
        return wait_ms(failures, ACCOUNT_ALLOWANCE)

    with ThreadPoolExecutor(RACERS) as pool:
        assert list(pool.map(race, range(RACERS))) == [0] * RACERS


@pytest.mark.usefixtures("_long_waits")
def test_a_success_forgets_the_account_and_takes_its_own_try_from_the_address(
    environment: Environment, client: redis.Redis
) -> None:
    for _ in range(ACCOUNT_ALLOWANCE - 1):
        assert environment.begin() == 0
    assert environment.begin() == 0

    environment.attempts.succeed(ACCOUNT, ADDRESS)

    assert client.exists(ACCOUNT.key) == 0
    assert client.hget(ADDRESS.key, "failures") == str(ACCOUNT_ALLOWANCE - 1).encode()
    assert environment.begin() == 0


@pytest.mark.usefixtures("_long_waits")
def test_a_try_that_was_not_judged_leaves_nothing(
    environment: Environment, client: redis.Redis
) -> None:
    for _ in range(2 * ACCOUNT_ALLOWANCE):
        assert environment.begin() == 0
        environment.attempts.take_back(ACCOUNT, ADDRESS)

    assert client.keys() == []


def test_counters_expire(environment: Environment, client: redis.Redis) -> None:
    environment.begin()
    for subject in (ACCOUNT, ADDRESS):
        assert FORGET_AFTER_MS - 60_000 < client.pttl(subject.key) <= FORGET_AFTER_MS
        client.pexpire(subject.key, 60_000)

    environment.begin()

    assert client.pttl(ACCOUNT.key) > 60_000  # after the last failure
    assert client.pttl(ADDRESS.key) <= 60_000  # after the first


def test_redis_does_not_learn_who_it_is_about(
    environment: Environment, client: redis.Redis
) -> None:
    limiter = SlowDown(environment.attempts, address_allowance=5)

    with pytest.raises(Unauthenticated), limiter.attempt("anna@example.com", "192.0.2.1"):
        raise Unauthenticated("no", "No.")

    stored = str(client.keys())
    assert stored.count("login:") == 2
    assert "anna" not in stored
    assert "192.0.2.1" not in stored


def test_each_environment_counts_for_itself_while_redis_is_away(
    environment: Environment, counters: Server
) -> None:
    environment.begin()
    counters.stop()

    waits = [environment.begin() for _ in range(ACCOUNT_ALLOWANCE + 2)]
    assert waits == [0] * ACCOUNT_ALLOWANCE + [1000] * 2  # by the test's own clock
    environment.attempts.succeed(ACCOUNT, ADDRESS)
    assert environment.begin() == 0
    environment.attempts.take_back(ACCOUNT, ADDRESS)

    counters.start()
    with redis_client(counters) as client:
        environment.begin()
        assert client.keys() == []  # it is left alone for a while
        environment.now_ms += REDIS_PAUSE_MS
        environment.begin()
        assert client.exists(ACCOUNT.key) == 1


def test_a_redis_that_says_nothing_is_given_up(environment: Environment, counters: Server) -> None:
    environment.begin()
    counters.freeze()
    try:
        waits = [environment.begin() for _ in range(ACCOUNT_ALLOWANCE + 1)]
    finally:
        counters.thaw()

    assert waits == [0] * ACCOUNT_ALLOWANCE + [1000]


def test_a_connection_that_was_cut_is_replaced_unseen(
    environment: Environment, client: redis.Redis
) -> None:
    environment.begin()
    client.client_kill_filter(_type="normal", skipme=True)

    environment.begin()

    assert client.hget(ACCOUNT.key, "failures") == b"2"
    assert environment.opened == 1


def test_scripts_that_redis_has_forgotten_are_sent_again(
    environment: Environment, client: redis.Redis
) -> None:
    environment.begin()
    client.script_flush()

    environment.begin()

    assert client.hget(ACCOUNT.key, "failures") == b"2"


def test_a_wrong_password_of_redis_is_no_reason_to_let_everybody_guess(counters: Server) -> None:
    attempts = SharedAttempts(lambda: connect(counters.url, "", "wrong"), lambda: 0)

    waits = [attempts.begin(ACCOUNT, ADDRESS) for _ in range(ACCOUNT_ALLOWANCE + 1)]

    attempts.close()
    assert waits == [0] * ACCOUNT_ALLOWANCE + [1000]
