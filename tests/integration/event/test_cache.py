"""The read cache in a real Redis: what it saves, and that it never shows what was replaced."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from event import cache
from event.cache import (
    ENTRY_LIMIT_BYTES,
    ENTRY_TTL_MS,
    FRESH_S,
    REDIS_PAUSE_S,
    CachedEventStore,
    RedisCache,
)
from event.listing import Listing, ListQuery
from event.models import Event
from tests.integration import servers
from tests.integration.event.test_store import BARE
from tests.integration.servers import Server
from tests.unit.event.fakes import InMemoryEvents
from ticketra.secrets import Credentials

OTHER = replace(BARE, id="f" * 24)


class Database(InMemoryEvents):
    """The store behind the cache; counts its reads, and may let one wait before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.hold: Callable[[], None] = lambda: None

    def get(self, event_id: str) -> Event | None:
        self.reads += 1
        event = super().get(event_id)
        self.hold()
        return event

    def page(self, query: ListQuery) -> Listing:
        self.reads += 1
        return super().page(query)


class Time:
    """A clock that a test sets, wall and monotonic."""

    def __init__(self) -> None:
        self.now = 1_900_000_000.0
        self.slept = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


class Readers:
    """Environments of the function: each with a connection to Redis of its own, one database."""

    def __init__(self, redis: Server, kind: type[CachedEventStore] = CachedEventStore) -> None:
        self.database = Database()
        self.time = Time()
        self.stage = f"stage-{next(_stages)}"
        self._redis = redis
        self._kind = kind
        self._stamps = itertools.count(1)
        self._caches: list[RedisCache] = []
        self.database.insert(BARE)

    def one(self) -> CachedEventStore:
        """Return another environment."""
        redis = RedisCache(
            self._redis.url,
            lambda: Credentials(self._redis.username, self._redis.password),
            namespace=f"{self.stage}:events",
            new_stamp=lambda: f"stamp-{next(self._stamps)}",
            monotonic=self.time,
        )
        self._caches.append(redis)
        return self._kind(self.database, redis, clock=self.time, sleep=self.time.sleep)

    def close(self) -> None:
        for redis in self._caches:
            redis.close()


_stages = itertools.count(1)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no busy machine pass for a Redis that hangs."""
    monkeypatch.setattr(cache, "REDIS_TIMEOUT_S", 1.0)
    monkeypatch.setattr(cache, "TURN_TTL_MS", 60_000)


@pytest.fixture
def readers(redis: Server) -> Iterator[Readers]:
    readers = Readers(redis)
    yield readers
    readers.close()


@pytest.fixture
def raw(redis: Server) -> Iterator[Redis]:
    with Redis.from_url(redis.url, password=redis.password) as client:
        yield client


def rename(store: CachedEventStore, title: str) -> None:
    """Change the event, through the cache."""
    known = store.load(BARE.id)
    assert known is not None
    assert store.replace(known, replace(known.event, title=title, version=known.next_version))


def title(store: CachedEventStore) -> str:
    """Return the title that a reader sees."""
    event = store.get(BARE.id)
    assert event is not None
    return event.title


def test_what_one_reader_loaded_others_find(readers: Readers) -> None:
    first, second = readers.one(), readers.one()

    assert first.get(BARE.id) == second.get(BARE.id) == BARE
    assert first.page(ListQuery(q="x")) == second.page(ListQuery(q="x"))
    assert readers.database.reads == 2


def test_each_query_and_id_has_its_own_entry(readers: Readers) -> None:
    store = readers.one()
    readers.database.insert(OTHER)

    assert store.get(BARE.id) == BARE
    assert store.get(OTHER.id) == OTHER
    assert len(store.page(ListQuery(limit=1)).events) == 1
    assert len(store.page(ListQuery(limit=2)).events) == 2
    assert readers.database.reads == 4


def test_stages_do_not_mix(redis: Server) -> None:
    stages = [Readers(redis), Readers(redis)]
    stages[1].database.kept.clear()

    assert [stage.one().get(BARE.id) for stage in stages] == [BARE, None]
    for stage in stages:
        stage.close()


def test_an_unknown_id_is_remembered_until_it_is_made(readers: Readers) -> None:
    store = readers.one()
    assert store.get(OTHER.id) is None
    assert store.get(OTHER.id) is None
    assert readers.database.reads == 1

    store.insert(OTHER)

    assert store.get(OTHER.id) == OTHER


@pytest.mark.parametrize("event_id", ["", "x" * 5000, "stamp", "A" * 24, "\u0000"])
def test_what_is_no_id_makes_no_entry(readers: Readers, raw: Redis, event_id: str) -> None:
    assert readers.one().get(event_id) is None
    assert raw.keys(f"{readers.stage}:*") == []


def test_a_write_is_seen_by_all_at_once(readers: Readers) -> None:
    writer, reader = readers.one(), readers.one()
    for number in range(3):
        title(reader)
        reader.page(ListQuery())
        rename(writer, f"{number}")
        assert title(writer) == title(reader) == f"{number}"
        assert reader.page(ListQuery()).events[0].title == f"{number}"


@pytest.mark.parametrize("how", ["insert", "finish"])
def test_every_kind_of_write_invalidates(readers: Readers, how: str) -> None:
    store = readers.one()
    before = store.page(ListQuery())

    if how == "insert":
        store.insert(OTHER)
    else:
        known = store.load(BARE.id)
        assert known is not None
        store.prepare(known, replace(BARE, title="Gala", version=2))
        store.finish(BARE.id, 2)

    assert store.page(ListQuery()) != before


def test_a_write_whose_outcome_is_unknown_invalidates(readers: Readers) -> None:
    store = readers.one()
    title(store)

    def written_but_not_answered(known: object, changed: Event) -> bool:
        readers.database.kept[BARE.id] = replace(readers.database.kept[BARE.id], event=changed)
        raise TimeoutError

    readers.database.replace = written_but_not_answered  # type: ignore[method-assign]
    with pytest.raises(TimeoutError):
        rename(store, "Gala")

    assert title(store) == "Gala"


class StampedAtTheEnd(CachedEventStore):
    """The negative control: keeps what it loaded under the stamp of that moment."""

    def _keep(self, key: str, stamp: bytes, value: bytes) -> None:
        look = self._cache.look(key)
        assert look is not None
        super()._keep(key, look.stamp, value)


@pytest.mark.parametrize(
    ("kind", "seen"), [(CachedEventStore, "Gala"), (StampedAtTheEnd, BARE.title)]
)
def test_a_slow_reader_does_not_put_back_what_was_replaced(
    redis: Server, kind: type[CachedEventStore], seen: str
) -> None:
    readers = Readers(redis, kind)
    slow, writer = readers.one(), readers.one()
    has_read, may_go_on = threading.Event(), threading.Event()

    def hold() -> None:
        readers.database.hold = lambda: None
        has_read.set()
        assert may_go_on.wait(10)

    readers.database.hold = hold
    with ThreadPoolExecutor(1) as pool:
        old = pool.submit(title, slow)
        assert has_read.wait(10)
        rename(writer, "Gala")
        may_go_on.set()
        assert old.result(10) == BARE.title

    assert title(readers.one()) == title(slow) == seen
    readers.close()


def test_of_many_readers_at_once_one_asks_the_database(
    readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [readers.one() for _ in range(6)]
    all_are_there = threading.Barrier(len(stores), timeout=10)
    is_kept = threading.Event()
    keep = RedisCache.keep

    def keep_and_tell(cache: RedisCache, key: str, value: bytes) -> None:
        keep(cache, key, value)
        is_kept.set()

    def wait(_: float) -> None:
        if not is_kept.is_set():
            all_are_there.wait()
            assert is_kept.wait(10)

    def hold() -> None:
        all_are_there.wait()

    monkeypatch.setattr(RedisCache, "keep", keep_and_tell)
    for store in stores:
        store._sleep = wait
    readers.database.hold = hold

    with ThreadPoolExecutor(len(stores)) as pool:
        found = list(pool.map(lambda store: store.get(BARE.id), stores))

    assert found == [BARE] * len(stores)
    assert readers.database.reads == 1


def test_readers_of_an_empty_redis_agree_on_the_stamp(readers: Readers) -> None:
    """Else each of them would take its turn under a stamp of its own."""
    first, second = readers.one()._cache, readers.one()._cache
    others: list[cache.Look | None] = []
    mget = first._client.mget

    def look_meanwhile(*keys: Any) -> Any:
        found = mget(*keys)
        if not others:
            others.append(second.look("one:x"))
        return found

    first._client.mget = look_meanwhile  # type: ignore[assignment, method-assign]

    assert first.look("one:x") == others[0] == second.look("one:x")


def test_a_reader_whose_turn_is_lost_holds_nobody_up(readers: Readers) -> None:
    """It died while loading; the others wait a little, and ask the database themselves."""
    lost, store = readers.one(), readers.one()
    readers.database.away = True
    with pytest.raises(Exception, match="Away"):
        lost.get(BARE.id)
    readers.database.away = False

    assert store.get(BARE.id) == BARE
    assert 0 < readers.time.slept < 0.2
    assert store.get(BARE.id) == BARE
    assert readers.database.reads == 2


def test_an_old_entry_is_loaded_by_one_and_still_shown_to_the_others(readers: Readers) -> None:
    first, second, third = readers.one(), readers.one(), readers.one()
    first.get(BARE.id)
    readers.time.now += FRESH_S + 1
    shown: list[Event | None] = []

    def meanwhile() -> None:
        readers.database.hold = lambda: None
        shown.append(third.get(BARE.id))

    readers.database.hold = meanwhile
    # The first load's turn has passed long before, by Redis's own clock.
    readers_turns_pass(readers, second)

    assert second.get(BARE.id) == BARE
    assert shown == [BARE]
    assert readers.time.slept == 0
    assert readers.database.reads == 2
    assert first.get(BARE.id) == BARE
    assert readers.database.reads == 2


def readers_turns_pass(readers: Readers, store: CachedEventStore) -> None:
    """Let the turns pass that were taken so far."""
    client = store._cache._client
    for key in client.keys(f"{readers.stage}:events:turn:*"):
        client.delete(key)


def test_entries_and_turns_go_by_themselves(readers: Readers, raw: Redis) -> None:
    readers.one().get(BARE.id)

    lives = {key: raw.pttl(key) for key in raw.scan_iter(f"{readers.stage}:*")}
    stamp = lives.pop(f"{readers.stage}:events:stamp".encode())
    assert stamp == -1
    entry = lives.pop(f"{readers.stage}:events:one:{BARE.id}".encode())
    assert 0 < entry <= ENTRY_TTL_MS
    [turn] = lives.values()
    assert 0 < turn <= cache.TURN_TTL_MS


def test_a_page_that_is_too_large_is_not_kept(readers: Readers, raw: Redis) -> None:
    store = readers.one()
    for number in range(ENTRY_LIMIT_BYTES // 20_000):
        huge = replace(BARE, id=f"{number:024x}", description="\U0001f600" * 5_000)
        readers.database.insert(huge)

    assert store.page(ListQuery(limit=100)) == store.page(ListQuery(limit=100))
    assert raw.keys(f"{readers.stage}:events:page:*") == []


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\x00\xff", b"stamp-1", b"stamp-1 5\n", b"stamp-1 5\nnull[", b"stamp-1 5\n{}",
     b'stamp-1 1900000000000\n{"id": 1}', b"stamp-1 99999999999999999999\nnull",
     b"stamp-2 1900000000000\nnull"],
)  # fmt: skip
def test_garbage_is_no_entry(readers: Readers, raw: Redis, garbage: bytes) -> None:
    store = readers.one()
    store.get(BARE.id)
    assert raw.get(f"{readers.stage}:events:stamp") == b"stamp-1"
    raw.set(f"{readers.stage}:events:one:{BARE.id}", garbage)
    readers_turns_pass(readers, store)

    assert store.get(BARE.id) == BARE
    assert store.get(BARE.id) == BARE
    assert readers.database.reads == 2


@pytest.mark.parametrize("name", ["stamp", f"one:{BARE.id}"])
def test_a_key_of_another_type_does_no_harm(readers: Readers, raw: Redis, name: str) -> None:
    key = f"{readers.stage}:events:{name}"
    raw.rpush(key, "x")
    store = readers.one()

    assert store.get(BARE.id) == store.get(BARE.id) == BARE
    assert readers.database.reads == 1


@pytest.mark.parametrize("stamp", [b"", b"a b\n", b"x" * 100, b"\xff"])
def test_a_stamp_that_is_garbage_is_replaced(readers: Readers, raw: Redis, stamp: bytes) -> None:
    raw.set(f"{readers.stage}:events:stamp", stamp)
    store = readers.one()

    assert store.get(BARE.id) == store.get(BARE.id) == BARE
    assert readers.database.reads == 1


def test_a_flushed_redis_shows_nothing_old(readers: Readers, raw: Redis) -> None:
    store, writer = readers.one(), readers.one()
    title(store)
    entry = raw.get(f"{readers.stage}:events:one:{BARE.id}")
    raw.flushdb()
    readers.database.kept[BARE.id] = replace(
        readers.database.kept[BARE.id], event=replace(BARE, title="Gala")
    )
    assert isinstance(entry, bytes)
    raw.set(f"{readers.stage}:events:one:{BARE.id}", entry)

    assert title(writer) == title(store) == "Gala"


@pytest.fixture
def own_redis() -> Iterator[Server]:
    with servers.redis_server() as server:
        yield server


def test_without_redis_the_database_answers(own_redis: Server) -> None:
    readers = Readers(own_redis)
    store = readers.one()
    title(store)
    own_redis.kill()

    rename(store, "Gala")
    assert [title(store) for _ in range(3)] == ["Gala"] * 3
    assert store.page(ListQuery()).events[0].title == "Gala"
    assert readers.database.reads == 5

    own_redis.start()
    readers.time.now += REDIS_PAUSE_S + 1
    assert [title(store) for _ in range(3)] == ["Gala"] * 3
    assert readers.database.reads == 6
    readers.close()


def test_an_invalidation_that_was_missed_is_made_up_for(own_redis: Server) -> None:
    """Redis hangs while the event changes, and then comes back with what it had."""
    readers = Readers(own_redis)
    store = readers.one()
    title(store)
    kept = Redis.from_url(own_redis.url, password=own_redis.password)
    before = {key: kept.get(key) for key in kept.scan_iter()}
    own_redis.freeze()
    try:
        rename(store, "Gala")
        assert title(store) == "Gala"
    finally:
        own_redis.thaw()
    for key, value in before.items():
        assert isinstance(value, bytes)
        kept.set(key, value)
    kept.close()

    assert title(store) == "Gala"
    readers.time.now += REDIS_PAUSE_S + 1
    assert title(store) == "Gala"
    assert title(readers.one()) == "Gala"
    readers.close()


def test_a_redis_that_hangs_is_left_alone_for_a_while(own_redis: Server) -> None:
    readers = Readers(own_redis)
    store = readers.one()
    title(store)
    own_redis.freeze()
    try:
        title(store)
        asked = counted_reads(store)
        title(store)
        assert asked == []
        readers.time.now += REDIS_PAUSE_S + 1
        title(store)
        assert asked == [1]
    finally:
        own_redis.thaw()
    readers.close()


def counted_reads(store: CachedEventStore) -> list[int]:
    """Count from now on how often a reader asks Redis."""
    asked: list[int] = []
    mget = store._cache._client.mget

    def count(*keys: Any) -> Any:
        asked.append(1)
        return mget(*keys)

    store._cache._client.mget = count  # type: ignore[assignment, method-assign]
    return asked
