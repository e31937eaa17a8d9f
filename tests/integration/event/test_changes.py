"""Changes at once on a real MongoDB: one wins, and document and sale agree afterwards."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from event.changes import Changes
from event.logic import on_terms
from event.models import Event, EventPatch
from event.ports import Sale
from event.store import MongoEventStore, connect
from tests.integration.event.conftest import DATABASE, EVENT, Mongo
from tests.integration.event.test_store import FULL, NOW
from tests.unit.event.fakes import InMemorySales
from ticketra.errors import Busy, PreconditionFailed, Refusal, Unavailable
from ticketra.tokens import Principal

WRITERS = 6
OWNER = Principal(FULL.organizer_id, "user")


class UnreliableSales(InMemorySales):
    """Some calls do not arrive, and of some the answer is lost."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.fails = 0.0

    def put(self, event: Event, *, request_id: str) -> Sale:
        with self._lock:
            if self._random.random() < self.fails:
                raise Unavailable("booking_unavailable", "It did not arrive.")
            sale = super().put(event, request_id=request_id)
            if self._random.random() < self.fails:
                raise Unavailable("booking_unavailable", "The answer was lost.")
        return sale


@pytest.fixture
def stores(mongo: Mongo) -> Iterator[list[MongoEventStore]]:
    stores = [MongoEventStore(lambda: connect(mongo.url, EVENT), DATABASE) for _ in range(WRITERS)]
    yield stores
    for store in stores:
        store.close()


def _patch(
    store: MongoEventStore, sales: InMemorySales, tickets: int, if_match: str
) -> Event | Refusal:
    changes = Changes(store, sales, policy="open", clock=lambda: NOW)
    patch = EventPatch(total_tickets=tickets)
    try:
        return changes.patch(FULL.id, patch, OWNER, if_match=if_match, request_id="r")
    except Refusal as refusal:
        return refusal


@pytest.mark.parametrize("seed", range(5))
def test_of_changes_at_once_one_wins(stores: list[MongoEventStore], seed: int) -> None:
    sales = UnreliableSales(seed)
    stores[0].insert(FULL)
    sales.put(FULL, request_id="r")

    def change(number: int) -> Event | Refusal:
        return _patch(stores[number], sales, number + 1, '"1"')

    with ThreadPoolExecutor(WRITERS) as pool:
        done = list(pool.map(change, range(WRITERS)))

    [winner] = [answer for answer in done if isinstance(answer, Event)]
    assert all(isinstance(answer, Event | PreconditionFailed) for answer in done)
    assert stores[0].get(FULL.id) == winner
    assert sales.sold[FULL.id].event == on_terms(winner, "open")


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_lost_document_and_sale_agree_in_the_end(
    stores: list[MongoEventStore], seed: int
) -> None:
    sales = UnreliableSales(seed)
    stores[0].insert(FULL)
    sales.put(FULL, request_id="r")
    sales.sold[FULL.id].taken = 5
    sales.fails = 0.3

    def change(number: int) -> Event | Refusal:
        return _patch(stores[number % WRITERS], sales, 3 + number, "*")

    with ThreadPoolExecutor(WRITERS) as pool:
        done = list(pool.map(change, range(4 * WRITERS)))
    assert any(isinstance(answer, Event) for answer in done)
    sales.fails = 0.0
    while isinstance(last := _patch(stores[0], sales, 1000, "*"), Busy):
        pass

    assert isinstance(last, Event)
    assert stores[0].get(FULL.id) == last
    assert replace(sales.sold[FULL.id].event, updated_at=last.updated_at) == last
