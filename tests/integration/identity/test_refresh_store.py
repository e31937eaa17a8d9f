"""Refresh tokens in a real PostgreSQL: what happens at once, and what is kept for how long."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg import errors

from identity import refresh_store, store
from identity.database import Connection, Database
from identity.models import User
from identity.refresh_store import PRUNE_LIMIT, RefreshTokenStore
from identity.sessions import Judge, KeptToken, NewToken, Verdict, verdict_on
from identity.store import UserStore
from tests.integration.identity.conftest import admin
from tests.integration.servers import Server

HASH, OTHER_HASH = "$2b$04$" + "a" * 53, "$2b$04$" + "b" * 53
NOW = datetime(2030, 7, 20, 21, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=30)
MEETING_LIMIT_S = 10.0


def _token(number: int, expires_at: datetime = LATER) -> NewToken:
    return NewToken(number.to_bytes(32), expires_at)


def _judge(kept: KeptToken) -> Verdict:
    return verdict_on(kept, NOW)


@pytest.fixture
def anna(users: UserStore) -> User:
    user = User(id=uuid4(), email="anna@example.com", role="user", created_at=NOW)
    users.insert(user, HASH)
    return user


@pytest.fixture
def other(open_connection: Callable[[], Connection]) -> Iterator[Database]:
    """What another execution environment sees of the database."""
    database = Database(open_connection)
    yield database
    database.close()


def _begin(tokens: RefreshTokenStore, user: User, token: NewToken) -> UUID:
    family_id = uuid4()
    assert tokens.begin(user.id, HASH, family_id, token, NOW)
    return family_id


def _rotate(tokens: RefreshTokenStore, number: int, successor: int, judge: Judge = _judge) -> Any:
    found = tokens.exchange(_token(number).token_hash, _token(successor), judge, NOW)
    return None if found is None else found.verdict


def _live(database: Server) -> list[int]:
    """The numbers of the tokens that are neither spent nor revoked."""
    with admin(database) as owner:
        rows = owner.execute(
            "SELECT token_hash FROM refresh_tokens WHERE spent_at IS NULL AND revoked_at IS NULL"
        ).fetchall()
    return sorted(int.from_bytes(row[0]) for row in rows if isinstance(row[0], bytes))


def _waits_or_has_ended(database: Server, meeting: "Future[Any]") -> None:
    """Return when `meeting` waits for somebody's lock, or has nothing more to wait for."""
    deadline = time.monotonic() + MEETING_LIMIT_S
    with admin(database) as owner:
        while not meeting.done():
            row = owner.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE application_name = 'identity' AND wait_event_type = 'Lock'"
            ).fetchone()
            if row != (0,):
                return
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_a_family_from_its_beginning_to_its_end(
    tokens: RefreshTokenStore, anna: User, database: Server
) -> None:
    family_id = _begin(tokens, anna, _token(1))

    found = tokens.exchange(_token(1).token_hash, _token(2), _judge, NOW)
    assert found is not None
    assert (found.verdict, found.user, found.family_id) == (Verdict.ROTATE, anna, family_id)
    assert _live(database) == [2]
    assert _rotate(tokens, 2, 3) is Verdict.ROTATE
    assert _rotate(tokens, 1, 4) is Verdict.REVOKE_FAMILY
    assert _live(database) == []
    assert _rotate(tokens, 3, 5) is Verdict.REFUSE
    assert _rotate(tokens, 9, 6) is None


def test_a_revoked_family_leaves_all_others_alone(
    tokens: RefreshTokenStore, anna: User, database: Server
) -> None:
    for number in (1, 2, 3):
        _begin(tokens, anna, _token(number))

    tokens.revoke_family(_token(2).token_hash, NOW)
    tokens.revoke_family(_token(9).token_hash, NOW)

    assert _live(database) == [1, 3]


def test_an_exchange_whose_answer_was_lost_finds_its_own_work(
    tokens: RefreshTokenStore, anna: User, database: Server
) -> None:
    """The store tries again on a new connection; that is no replay by anybody."""
    _begin(tokens, anna, _token(1))
    assert _rotate(tokens, 1, 2) is Verdict.ROTATE

    assert _rotate(tokens, 1, 2) is Verdict.ROTATE

    assert _live(database) == [2]


def test_one_of_many_at_once_gets_the_next_token(
    open_connection: Callable[[], Connection],
    tokens: RefreshTokenStore,
    anna: User,
    database: Server,
) -> None:
    _begin(tokens, anna, _token(1))
    together = threading.Barrier(8)

    def refresh(number: int) -> Any:
        own = Database(open_connection)
        own.run(lambda connection: connection.execute("SELECT 1"))  # connected before the race
        together.wait(MEETING_LIMIT_S)
        try:
            return _rotate(RefreshTokenStore(own), 1, 100 + number)
        finally:
            own.close()

    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(refresh, range(8)))

    assert verdicts.count(Verdict.ROTATE) == 1
    assert set(verdicts) == {Verdict.ROTATE, Verdict.REVOKE_FAMILY}
    assert _live(database) == []


def _meet_in_the_middle(
    tokens: RefreshTokenStore, other: Database, database: Server
) -> tuple[Any, Any]:
    """Let a second refresh of token 1 come while the first is being judged."""
    with ThreadPoolExecutor(1) as pool:
        second: list[Future[Any]] = []

        def judge(kept: KeptToken) -> Verdict:
            second.append(pool.submit(_rotate, RefreshTokenStore(other), 1, 3))
            _waits_or_has_ended(database, second[0])
            return _judge(kept)

        return _rotate(tokens, 1, 2, judge), second[0].result(MEETING_LIMIT_S)


def test_the_second_waits_until_the_first_has_spent_the_token(
    tokens: RefreshTokenStore, other: Database, anna: User, database: Server
) -> None:
    _begin(tokens, anna, _token(1))

    verdicts = _meet_in_the_middle(tokens, other, database)

    assert verdicts == (Verdict.ROTATE, Verdict.REVOKE_FAMILY)
    assert _live(database) == []


def test_without_the_lock_the_index_still_keeps_the_family_to_one_token(
    tokens: RefreshTokenStore,
    other: Database,
    anna: User,
    database: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The negative control of the races above."""
    unlocked = refresh_store._LOCK_OWNER.replace("FOR NO KEY UPDATE", "")
    monkeypatch.setattr(refresh_store, "_LOCK_OWNER", unlocked)
    _begin(tokens, anna, _token(1))

    with pytest.raises(errors.UniqueViolation):
        _meet_in_the_middle(tokens, other, database)

    assert _live(database) == [3]


def test_without_the_lock_and_the_index_both_would_win(
    tokens: RefreshTokenStore,
    other: Database,
    anna: User,
    database: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The negative control of the index."""
    unlocked = refresh_store._LOCK_OWNER.replace("FOR NO KEY UPDATE", "")
    monkeypatch.setattr(refresh_store, "_LOCK_OWNER", unlocked)
    with admin(database) as owner:
        row = owner.execute(
            "SELECT indexdef FROM pg_indexes WHERE indexname = 'refresh_tokens_live_of_family'"
        ).fetchone()
        assert row is not None
        owner.execute("DROP INDEX refresh_tokens_live_of_family")
        try:
            _begin(tokens, anna, _token(1))
            verdicts = _meet_in_the_middle(tokens, other, database)
            live = _live(database)
        finally:
            owner.execute("TRUNCATE refresh_tokens")
            owner.execute(str(row[0]).encode())

    assert verdicts == (Verdict.ROTATE, Verdict.ROTATE)
    assert live == [2, 3]


def test_a_family_that_is_revoked_during_a_refresh_gets_no_live_token(
    tokens: RefreshTokenStore, other: Database, anna: User, database: Server
) -> None:
    _begin(tokens, anna, _token(1))
    with ThreadPoolExecutor(1) as pool:
        revoked: list[Future[None]] = []

        def judge(kept: KeptToken) -> Verdict:
            revoke = RefreshTokenStore(other).revoke_family
            revoked.append(pool.submit(revoke, _token(1).token_hash, NOW))
            _waits_or_has_ended(database, revoked[0])
            return _judge(kept)

        assert _rotate(tokens, 1, 2, judge) is Verdict.ROTATE
        revoked[0].result(MEETING_LIMIT_S)

    assert _live(database) == []


def test_a_new_password_ends_every_session_of_this_user(
    tokens: RefreshTokenStore, users: UserStore, anna: User, database: Server
) -> None:
    bea = User(id=uuid4(), email="bea@example.com", role="user", created_at=NOW)
    users.insert(bea, HASH)
    for number, user in enumerate((anna, anna, bea)):
        _begin(tokens, user, _token(number))

    def change(old_hash: str, new_hash: str) -> bool:
        return users.change_password(anna.id, old_hash=old_hash, new_hash=new_hash, now=NOW)

    assert not change(OTHER_HASH, HASH[:-1] + "c")
    assert _live(database) == [0, 1, 2]
    assert change(HASH, OTHER_HASH)
    assert change(HASH, OTHER_HASH)  # a try whose answer was lost finds its own work
    assert _live(database) == [2]
    assert users.find(anna.id) == (anna, OTHER_HASH)
    assert users.find(bea.id) == (bea, HASH)


def test_a_login_that_meets_a_new_password_is_refused(
    tokens: RefreshTokenStore, anna: User, database: Server
) -> None:
    with admin(database) as owner, ThreadPoolExecutor(1) as pool:
        with owner.transaction():
            values = {"id": anna.id, "old_hash": HASH, "new_hash": OTHER_HASH}
            owner.execute(store._REPLACE_HASH, values)
            login = pool.submit(tokens.begin, anna.id, HASH, uuid4(), _token(1), NOW)
            _waits_or_has_ended(database, login)

        assert login.result(MEETING_LIMIT_S) is False
    assert _live(database) == []


def test_a_new_password_that_meets_a_login_ends_it(
    users: UserStore, anna: User, database: Server
) -> None:
    with admin(database) as owner, ThreadPoolExecutor(1) as pool:
        with owner.transaction():
            owner.execute(refresh_store._LOCK_USER, {"user_id": anna.id, "password_hash": HASH})
            owner.execute(refresh_store._INSERT, refresh_store._row(_token(1), uuid4(), anna.id))
            change = pool.submit(
                users.change_password, anna.id, old_hash=HASH, new_hash=OTHER_HASH, now=NOW
            )
            _waits_or_has_ended(database, change)

        assert change.result(MEETING_LIMIT_S) is True
    assert _live(database) == []


@pytest.mark.parametrize("how", ["login", "refresh"])
def test_each_use_removes_a_few_expired_tokens(
    tokens: RefreshTokenStore, anna: User, database: Server, how: str
) -> None:
    _begin(tokens, anna, _token(1))
    with admin(database) as owner:
        for number in range(10, 10 + 2 * PRUNE_LIMIT):
            row = refresh_store._row(_token(number, NOW), uuid4(), anna.id)
            owner.execute(refresh_store._INSERT, row)

    def count() -> int:
        with admin(database) as owner:
            (found,) = owner.execute("SELECT count(*) FROM refresh_tokens").fetchone() or (0,)
        assert isinstance(found, int)
        return found

    before, later = count(), NOW + timedelta(seconds=1)
    if how == "login":
        assert tokens.begin(anna.id, HASH, uuid4(), _token(2), later)
    else:
        assert tokens.exchange(_token(1).token_hash, _token(2), _judge, later)

    assert count() == before + 1 - PRUNE_LIMIT
    assert _rotate(tokens, 2, 3) is Verdict.ROTATE


@pytest.mark.parametrize(
    "statement",
    [
        refresh_store._LOCK_USER,
        refresh_store._LOCK_OWNER,
        refresh_store._FIND,
        refresh_store._SPEND,
        refresh_store._REVOKE_FAMILY,
        refresh_store._PRUNE,
        store._FIND,
        store._FIND_BY_EMAIL,
        store._REPLACE_HASH,
        store._END_SESSIONS,
    ],
)
def test_nothing_reads_a_whole_table(database: Server, statement: str) -> None:
    values: dict[str, Any] = {name: uuid4() for name in ("id", "user_id", "family_id")}
    values |= dict.fromkeys(("password_hash", "old_hash", "new_hash", "email"), HASH)
    values |= {"token_hash": bytes(32), "now": NOW, "limit": PRUNE_LIMIT}
    with admin(database) as owner:
        owner.execute("SET enable_seqscan = off")  # which only helps where there is an index
        rows = owner.execute(f"EXPLAIN {statement}".encode(), values).fetchall()

    plan = "\n".join(str(row[0]) for row in rows)
    assert "Index" in plan
    assert "Seq Scan" not in plan


def test_only_a_hash_can_be_kept(database: Server, anna: User) -> None:
    with admin(database) as owner, pytest.raises(errors.CheckViolation):
        owner.execute(
            refresh_store._INSERT,
            refresh_store._row(NewToken(b"the token itself", LATER), uuid4(), anna.id),
        )
