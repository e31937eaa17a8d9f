"""A read cache in Redis for events and pages of them; what is kept never includes availability.

One stamp stands for the state of all events. Every write of this function replaces it, and an entry
counts only under the stamp that it was loaded under. A reader takes the stamp before it asks the
database: if a write comes between, what it keeps afterwards is under a stamp that has passed. So a
slow reader cannot put back what a write has replaced, and who wrote reads what they wrote.

An invalidation that did not reach Redis is owed: until it is made up for, this process does not
read from the cache. Other processes may show what was replaced until ENTRY_TTL_MS are over.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from event.listing import Listing, ListQuery
from event.models import CreationKey, Event, KeptEvent
from event.ports import EventStore
from ticketra.errors import Unavailable
from ticketra.log import logger
from ticketra.secrets import Credentials

if TYPE_CHECKING:
    from redis import Redis

REDIS_TIMEOUT_S = 0.05
REDIS_PAUSE_S = 2.0  # how long to leave Redis alone after it failed
ENTRY_TTL_MS = 10_000
FRESH_S = 5.0  # after that one reader loads the entry again, while the others still take it
TURN_TTL_MS = 1_000  # how long others leave the loading to one reader
WAIT_LIMIT_S = 0.1
WAIT_STEP_S = 0.02
ENTRY_LIMIT_BYTES = 512 * 1024

_STAMP = re.compile(rb"[0-9A-Za-z-]{1,64}")
_ENTRY = re.compile(rb"([0-9A-Za-z-]{1,64}) (\d{1,15})\n(.+)", re.DOTALL)
_EVENT_ID = re.compile("[0-9a-f]{24}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Look:
    """The present stamp, and what lies under a key, whatever that may be."""

    stamp: bytes
    entry: bytes | None


class RedisCache:
    """Keeps bytes under keys that begin with `namespace`. Redis may be away, slow, or empty.

    A failure costs at most a few REDIS_TIMEOUT_S and then nothing for REDIS_PAUSE_S.
    """

    def __init__(
        self,
        url: str,
        load_credentials: Callable[[], Credentials],
        *,
        namespace: str,
        new_stamp: Callable[[], str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._load_credentials = load_credentials
        self._namespace = namespace
        self._new_stamp = new_stamp
        self._monotonic = monotonic
        self._paused_until = 0.0
        self._owes_invalidation = False

    def look(self, key: str) -> Look | None:
        """Return what lies under `key`; None if the cache cannot be used."""
        if self._monotonic() < self._paused_until:
            return None
        if self._owes_invalidation and not self.invalidate():
            return None
        found: list[Any] | None = self._ask(
            lambda client: client.mget(self._name("stamp"), self._name(key))
        )
        if found is None:
            return None
        stamp, entry = found
        if not _is_stamp(stamp):
            stamp = self._first_stamp()
        return None if stamp is None else Look(stamp, entry)

    def keep(self, key: str, value: bytes) -> None:
        """Put `value` under `key`, for ENTRY_TTL_MS."""
        self._ask(lambda client: client.set(self._name(key), value, px=ENTRY_TTL_MS))

    def take_turn(self, key: str, stamp: bytes) -> bool:
        """Return whether it is this reader who loads `key`, of all that want it now."""
        name = self._name(f"turn:{stamp.decode()}:{key}")
        return self._ask(lambda client: client.set(name, b"1", nx=True, px=TURN_TTL_MS)) is True

    def invalidate(self) -> bool:
        """Let no entry count that is there now; return whether that reached Redis."""
        self._owes_invalidation = True
        self._owes_invalidation = self._put_stamp() is None
        return not self._owes_invalidation

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _first_stamp(self) -> bytes | None:
        """Put a stamp where there was none; of several readers at once all get the same."""
        stamp = self._new_stamp().encode()
        if self._ask(lambda client: client.set(self._name("stamp"), stamp, nx=True)):
            return stamp
        present: list[Any] | None = self._ask(lambda client: client.mget(self._name("stamp")))
        if present is None:
            return None
        return present[0] if _is_stamp(present[0]) else self._put_stamp()

    def _put_stamp(self) -> bytes | None:
        stamp = self._new_stamp().encode()
        done = self._ask(lambda client: client.set(self._name("stamp"), stamp))
        return stamp if done else None

    def _name(self, key: str) -> str:
        return f"{self._namespace}:{key}"

    def _ask(self, ask: "Callable[[Redis], T]") -> T | None:
        """Return Redis's answer; None if there is none, and then leave it alone for a while."""
        from redis.exceptions import RedisError  # noqa: PLC0415 - a tenth of a second

        try:
            return ask(self._client)
        except (RedisError, OSError, Unavailable) as error:
            self._paused_until = self._monotonic() + REDIS_PAUSE_S
            logger.warning("going on without the cache", extra={"error": repr(error)})
            return None

    @cached_property
    def _client(self) -> "Redis":
        from redis import Redis  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415

        login = self._load_credentials()
        return Redis.from_url(
            self._url,
            username=login.username or None,
            password=login.password or None,
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )


def _is_stamp(value: bytes | None) -> bool:
    return value is not None and _STAMP.fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    value: T
    is_fresh: bool


class CachedEventStore:
    """An EventStore that answers `get` and `page` from a cache where it can, and else from `store`.

    Every write invalidates the cache, also one whose outcome is not known.
    """

    def __init__(
        self,
        store: EventStore,
        cache: RedisCache,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._cache = cache
        self._clock = clock
        self._sleep = sleep

    def get(self, event_id: str) -> Event | None:
        """Return the event with this id, to be shown."""
        if not _EVENT_ID.fullmatch(event_id):
            return self._store.get(event_id)
        return self._read(f"one:{event_id}", lambda: self._store.get(event_id), _event_form())

    def page(self, query: ListQuery) -> Listing:
        """Return the page of events that `query` asks for."""
        asked = sha256(query.model_dump_json(by_alias=True).encode()).hexdigest()
        return self._read(f"page:{asked}", lambda: self._store.page(query), _listing_form())

    def load(self, event_id: str) -> KeptEvent | None:
        """Return the event with this id, to be changed: always from the store."""
        return self._store.load(event_id)

    def key(self, key_id: str) -> CreationKey | None:
        """Return the key with this id."""
        return self._store.key(key_id)

    def claim_key(self, key: CreationKey) -> CreationKey:
        """Keep a new key, or return the one that is there."""
        return self._store.claim_key(key)

    def insert(self, event: Event) -> bool:
        """Keep a new event."""
        return self._write(lambda: self._store.insert(event))

    def replace(self, known: KeptEvent, changed: Event) -> bool:
        """Make `known` what it changed to."""
        return self._write(lambda: self._store.replace(known, changed))

    def prepare(self, known: KeptEvent, changed: Event) -> bool:
        """Note what `known` is going to be; nobody is shown that."""
        return self._store.prepare(known, changed)

    def finish(self, event_id: str, version: int) -> Event | None:
        """Make an event what was prepared."""
        return self._write(lambda: self._store.finish(event_id, version))

    def give_up(self, event_id: str, version: int, *, sale_version: int) -> None:
        """Forget what was prepared; nobody was shown that."""
        self._store.give_up(event_id, version, sale_version=sale_version)

    def _write(self, write: Callable[[], T]) -> T:
        try:
            return write()
        finally:
            self._cache.invalidate()

    def _read(self, key: str, load: Callable[[], T], form: TypeAdapter[T]) -> T:
        look = self._cache.look(key)
        if look is None:
            return load()
        kept = self._kept(look, form)
        if kept is not None and kept.is_fresh:
            return kept.value
        if not self._cache.take_turn(key, look.stamp):
            if kept is not None:
                return kept.value
            look, kept = self._wait(key, look, form)
            if kept is not None:
                return kept.value
        loaded = load()
        self._keep(key, look.stamp, form.dump_json(loaded))
        return loaded

    def _wait(self, key: str, look: Look, form: TypeAdapter[T]) -> tuple[Look, _Kept[T] | None]:
        """Wait a little for the reader whose turn it is; return the last look and what it saw."""
        for _ in range(round(WAIT_LIMIT_S / WAIT_STEP_S)):
            self._sleep(WAIT_STEP_S)
            again = self._cache.look(key)
            if again is None:
                break
            look = again
            kept = self._kept(look, form)
            if kept is not None:
                return look, kept
        return look, None

    def _kept(self, look: Look, form: TypeAdapter[T]) -> _Kept[T] | None:
        """Return what an entry holds; None if it does not count, or is no entry of ours."""
        match = _ENTRY.fullmatch(look.entry or b"")
        if match is None or match[1] != look.stamp:
            return None
        try:
            value = form.validate_json(match[3])
        except ValidationError:
            return None
        age_s = self._clock() - int(match[2]) / 1000
        return _Kept(value, is_fresh=age_s < FRESH_S)

    def _keep(self, key: str, stamp: bytes, value: bytes) -> None:
        entry = b"%b %d\n%b" % (stamp, int(self._clock() * 1000), value)
        if len(entry) <= ENTRY_LIMIT_BYTES:
            self._cache.keep(key, entry)


@cache
def _event_form() -> TypeAdapter[Event | None]:
    return TypeAdapter(Event | None)


@cache
def _listing_form() -> TypeAdapter[Listing]:
    return TypeAdapter(Listing)
