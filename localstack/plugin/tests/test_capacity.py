import threading
import time

import pytest
from local_cloud import wait_until

from process_cloud.capacity import QueueFullError, QueueWaitError, Slots


class Caller(threading.Thread):
    """Holds a slot until told to let go."""

    def __init__(self, slots: Slots, name: str, order: list[str]) -> None:
        super().__init__(name=name, daemon=True)
        self.release = threading.Event()
        self._slots = slots
        self._order = order

    def run(self) -> None:
        with self._slots.slot():
            self._order.append(self.name)
            self.release.wait(10)


def start(slots: Slots, names: str, order: list[str]) -> list[Caller]:
    callers = []
    for name in names:
        waiting = slots.waiting
        caller = Caller(slots, name, order)
        caller.start()
        taken = len(order)
        wait_until(lambda w=waiting, t=taken: slots.waiting > w or len(order) >= t)
        callers.append(caller)
        time.sleep(0.01)
    return callers


def test_slots_go_to_whoever_waits_longest() -> None:
    order: list[str] = []
    slots = Slots(slots_limit=1, queue_limit=10, wait_s=10)
    callers = start(slots, "abcd", order)
    for count, caller in enumerate(callers, start=1):
        wait_until(lambda c=count: len(order) == c)
        caller.release.set()
    for caller in callers:
        caller.join(5)
    assert order == list("abcd")


def test_no_more_than_the_limit_hold_a_slot_at_once() -> None:
    slots = Slots(slots_limit=3, queue_limit=100, wait_s=10)
    lock = threading.Lock()
    holding = most = 0

    def use() -> None:
        nonlocal holding, most
        with slots.slot():
            with lock:
                holding += 1
                most = max(most, holding)
            time.sleep(0.005)
            with lock:
                holding -= 1

    threads = [threading.Thread(target=use) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == 3


def test_a_full_queue_refuses_at_once() -> None:
    order: list[str] = []
    slots = Slots(slots_limit=1, queue_limit=1, wait_s=10)
    callers = start(slots, "ab", order)
    with pytest.raises(QueueFullError), slots.slot():
        pass
    for caller in callers:
        caller.release.set()


def test_waiting_too_long_is_refused_and_costs_no_slot() -> None:
    order: list[str] = []
    slots = Slots(slots_limit=1, queue_limit=5, wait_s=0.05)
    (holder,) = start(slots, "a", order)
    with pytest.raises(QueueWaitError), slots.slot():
        pass
    assert slots.waiting == 0
    holder.release.set()
    holder.join(5)
    with slots.slot():
        order.append("b")
    assert order == ["a", "b"]


def test_a_failing_holder_gives_its_slot_back() -> None:
    slots = Slots(slots_limit=1, queue_limit=0, wait_s=1)
    with pytest.raises(ZeroDivisionError), slots.slot():
        raise ZeroDivisionError
    with slots.slot():
        pass
