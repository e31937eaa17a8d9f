"""Slowing down whoever guesses passwords: the rules, and counters for one process.

A try counts as failed from its beginning and is taken back when it turns out otherwise: tries that
are made at the same time would else all be let through before the first of them had failed.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Protocol

from ticketra.errors import Refusal, TooManyRequests, Unauthenticated

ACCOUNT_ALLOWANCE = 5
"""failures in a row before an account has to wait"""
FIRST_WAIT_MS = 1_000
LONGEST_WAIT_MS = 60_000
FORGET_AFTER_MS = 15 * 60 * 1000
"""after an account's last failure, or an address's first"""
LOCAL_COUNTERS_LIMIT = 10_000
IPV6_SITE_BITS = 64

MonotonicMs = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is counted: `key` names them without saying who they are."""

    key: str
    allowance: int
    is_account: bool


class Attempts(Protocol):
    """Counts tries; each method takes a try's account and its address."""

    def begin(self, account: Subject, address: Subject) -> int:
        """Count a try as failed and return 0, or count nothing and return the ms to wait."""

    def succeed(self, account: Subject, address: Subject) -> None:
        """The try succeeded: forget the account's failures, and this one of the address."""

    def take_back(self, account: Subject, address: Subject) -> None:
        """The try was never judged: forget this one."""


def wait_ms(failures: int, allowance: int) -> int:
    """Return how long to wait after so many failures: 1, 2, 4 … up to 60 seconds."""
    if failures < allowance:
        return 0
    doublings = min(failures - allowance, LONGEST_WAIT_MS.bit_length())
    return min(LONGEST_WAIT_MS, FIRST_WAIT_MS << doublings)


class SlowDown:
    """Lets tries to prove who one is through at a bounded rate."""

    def __init__(self, attempts: Attempts, *, address_allowance: int) -> None:
        self._attempts = attempts
        self._address_allowance = address_allowance

    @contextmanager
    def attempt(self, email: str, address: str) -> Iterator[None]:
        """Enclose one try with the password of `email` from the client address `address`.

        A try that ends with Unauthenticated has failed; one that ends with another refusal counts
        for nothing. It does not matter whether there is such an account.

        Raises:
            TooManyRequests: somebody failed too often; nothing was done.

        """
        who = self._account(email), self._address(address)
        waiting_ms = self._attempts.begin(*who)
        if waiting_ms > 0:
            raise TooManyRequests(
                "too_many_attempts",
                "Too many attempts to log in failed: wait, and try again.",
                retry_after_s=-(-waiting_ms // 1000),
            )
        try:
            yield
        except Unauthenticated:
            raise
        except Refusal:
            self._attempts.take_back(*who)
            raise
        self._attempts.succeed(*who)

    def _account(self, email: str) -> Subject:
        return Subject(f"login:account:{_digest(email)}", ACCOUNT_ALLOWANCE, is_account=True)

    def _address(self, address: str) -> Subject:
        key = f"login:address:{_digest(_site(address))}"
        return Subject(key, self._address_allowance, is_account=False)


@dataclass(slots=True)
class _Counter:
    failures: int
    not_before_ms: int
    forget_at_ms: int


class LocalAttempts:
    """Counts the tries that one process sees, on a monotonic clock.

    Of more than LOCAL_COUNTERS_LIMIT subjects those are forgotten that were seen least recently.
    """

    def __init__(self, monotonic_ms: MonotonicMs) -> None:
        self._monotonic_ms = monotonic_ms
        self._counters: OrderedDict[str, _Counter] = OrderedDict()

    def begin(self, account: Subject, address: Subject) -> int:
        """Count a try as failed and return 0, or count nothing and return the ms to wait."""
        now = self._monotonic_ms()
        waiting_ms = max(self._waiting_ms(subject, now) for subject in (account, address))
        if waiting_ms > 0:
            return waiting_ms
        for subject in (account, address):
            self._count(subject, now)
        return 0

    def succeed(self, account: Subject, address: Subject) -> None:
        """Forget the account's failures, and this one of the address."""
        self._counters.pop(account.key, None)
        self._uncount(address)

    def take_back(self, account: Subject, address: Subject) -> None:
        """Forget this try."""
        self._uncount(account)
        self._uncount(address)

    def _waiting_ms(self, subject: Subject, now: int) -> int:
        counter = self._counters.get(subject.key)
        return 0 if counter is None else counter.not_before_ms - now

    def _count(self, subject: Subject, now: int) -> None:
        counter = self._counters.pop(subject.key, None)
        if counter is None or counter.forget_at_ms <= now:
            counter = _Counter(0, 0, now + FORGET_AFTER_MS)
        counter.failures += 1
        counter.not_before_ms = now + wait_ms(counter.failures, subject.allowance)
        if subject.is_account:
            counter.forget_at_ms = now + FORGET_AFTER_MS
        self._counters[subject.key] = counter
        if len(self._counters) > LOCAL_COUNTERS_LIMIT:
            self._counters.popitem(last=False)

    def _uncount(self, subject: Subject) -> None:
        counter = self._counters.get(subject.key)
        if counter is None:
            return
        counter.failures -= 1
        counter.not_before_ms = 0
        if counter.failures <= 0:
            del self._counters[subject.key]


def _site(address: str) -> str:
    """Return what one client is known by: who has an IPv6 address has 2^64 of them."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or int(parsed) >> IPV6_SITE_BITS)
    return str(parsed)


def _digest(value: str) -> str:
    """Return a name for `value` that does not show it to who looks into Redis."""
    return hashlib.sha256(value.encode()).hexdigest()
