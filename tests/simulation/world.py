"""One run of the simulation: everything wired together, faults for a while, then peace."""

from collections.abc import Callable
from functools import partial
from itertools import count
from random import Random
from typing import Any

from tests.simulation.announcer import Announcer
from tests.simulation.broker import Broker, Delivery
from tests.simulation.database import Database
from tests.simulation.faults import Faults
from tests.simulation.guards import Guard
from tests.simulation.invariants import Invariants
from tests.simulation.payment import Bank, Books, PaymentWorker
from tests.simulation.people import People
from tests.simulation.scheduler import Actor, Reply, Scheduler, Steps
from tests.simulation.sweeper import HOLD_MAX
from tests.simulation.task import Task
from tests.simulation.writer import HOLD_TTL
from ticketra.ids import IdSource

NONE_OFF: frozenset[Guard] = frozenset()
CALL_TIMEOUT_MS = 3_500
RESTART_LIMIT_MS = 1_500
WORKERS = 2
CLOCK_SKEW_LIMIT_S = 30
FAULTS_FROM_MS, FAULTS_UNTIL_MS = 4_000, 14_000
PEACE_LIMIT_MS = 300_000
PEACE_CHECK_MS = 500
CHAOS_INTERVAL_LIMIT_MS = 3_000


class World:
    """A world whose every chance is drawn from one seed."""

    def __init__(
        self,
        seed: int,
        off: frozenset[Guard] = NONE_OFF,
        *,
        traced: bool = False,
    ) -> None:
        self._rng = rng = Random(seed)
        self.scheduler = Scheduler(rng)
        self.trace: list[str] = []
        if traced:
            self.scheduler.trace = self.trace
        self.invariants = Invariants(HOLD_TTL, HOLD_MAX)
        self._faults = Faults(rng)
        self._mint_id = IdSource(lambda: self.scheduler.now_ms * 1_000_000, rng.randbytes)
        self._database = Database(self.scheduler, self._faults, self.invariants, off=off)
        self._broker = Broker(self.scheduler, self._faults)
        self._announcer = Announcer(self.scheduler, self._faults)
        self._bank = Bank(self._database)
        self._books = Books()
        self._outside = Actor("people")
        self._starts = count()
        self._tasks = [self._new_task(number) for number in range(rng.choice([2, 2, 3]))]
        self._announcer.listeners = self._tasks
        self._workers = [self._new_worker(number) for number in range(WORKERS)]
        self._database.on_reopened = self._announcer.announce
        self._database.on_messages = self._wake_relays
        self._broker.consume = self._consume
        events = [f"event-{number}" for number in range(rng.choice([1, 1, 2]))]
        self._people = People(rng, self._database, self._call, events)

    def run(self) -> None:
        """Let everything happen.

        Raises:
            AssertionError: something does not hold.

        """
        faults_end_ms = self._rng.randrange(FAULTS_FROM_MS, FAULTS_UNTIL_MS)
        start = partial(self.scheduler.start, self._outside)
        self._people.start(start, faults_end_ms)
        start(self._trouble())
        self.scheduler.run(faults_end_ms)
        self._faults.stop()
        self.scheduler.note("world", "the faults end")
        while not self._is_at_rest():
            assert self.scheduler.now_ms < PEACE_LIMIT_MS, "it never comes to rest"
            self.scheduler.run(self.scheduler.now_ms + PEACE_CHECK_MS)
        assert not any(task.waiting for task in self._tasks), "somebody waits in a line for ever"
        assert not self._broker.dead_letters, f"{self._broker.dead_letters} were given up"
        self.invariants.all_is_settled(self._database.bookings, self._broker.told)
        self.invariants.payments_are_settled(self._database.bookings, self._books.told)
        self.invariants.closed_sales_are_empty(
            self._database.sales.values(), self._database.bookings.values()
        )

    def _is_at_rest(self) -> bool:
        return (
            self._people.busy == 0
            and self._broker.on_way == 0
            and all(message.published for message in self._database.outbox)
            and all(state.is_final for state in self._books.states.values())
            and all(
                sale.event_id in self._database.bookings_ended
                for sale in self._database.sales.values()
                if sale.closed
            )
            and all(booking.status != "PENDING" for booking in self._database.bookings.values())
        )

    def _trouble(self) -> Steps[None]:
        """Let a task or the worker stand still now and then. They die at steps of their own."""
        while True:
            yield self._rng.randrange(CHAOS_INTERVAL_LIMIT_MS)
            workers = [worker.actor for worker in self._workers]
            actor = self._rng.choice([*workers, *(task.actor for task in self._tasks)])
            actor.paused_until_ms = self.scheduler.now_ms + self._faults.pause_ms()
            self.scheduler.note(actor.name, "stands still until", actor.paused_until_ms, "ms")

    def _call(self, send: Callable[[Task, Reply[Any]], None]) -> Steps[Any]:
        """Call some task; None if no answer comes in time."""
        yield self._faults.up_to(20)
        reply: Reply[Any] = Reply(self.scheduler)
        task = self._rng.choice(self._tasks)
        if not task.actor.alive:
            return None
        self.scheduler.call_later(task.actor, self._faults.up_to(3), lambda: send(task, reply))
        self.scheduler.call_later(self._outside, CALL_TIMEOUT_MS, lambda: reply.set_result(None))
        answer = yield from reply.wait()
        return None if self._faults.loses_answer() else answer

    def _new_task(self, number: int) -> Task:
        actor = Actor(f"task-{number}, start {next(self._starts)}")
        skew_s = self._rng.randrange(-CLOCK_SKEW_LIMIT_S, CLOCK_SKEW_LIMIT_S)
        task = Task(actor, self._database, self._broker, self._mint_id, skew_s)
        actor.on_crash = lambda: self._after_task_crash(number, actor)
        return task

    def _after_task_crash(self, number: int, actor: Actor) -> None:
        self.invariants.seen["task crashed"] += 1
        self.scheduler.note(actor.name, "crashed")
        self._database.forget(actor)

        def restart() -> None:
            self._tasks[number] = self._new_task(number)
            self._tasks[number].wake_relay()

        self.scheduler.call_later(self._outside, self._faults.up_to(RESTART_LIMIT_MS), restart)

    def _consume(self, delivery: Delivery) -> bool:
        return self._rng.choice(self._workers).consume(delivery)

    def _new_worker(self, number: int) -> PaymentWorker:
        actor = Actor(f"worker-{number}")
        worker = PaymentWorker(
            actor,
            self._database,
            self._broker,
            bank=self._bank,
            books=self._books,
            call=self._call,
        )
        actor.on_crash = lambda: self._after_worker_crash(number, worker)
        return worker

    def _after_worker_crash(self, number: int, worker: PaymentWorker) -> None:
        self.invariants.seen["worker crashed"] += 1
        self.scheduler.note(worker.actor.name, "crashed")
        worker.give_back()

        def restart() -> None:
            self._workers[number] = self._new_worker(number)

        self.scheduler.call_later(self._outside, self._faults.up_to(RESTART_LIMIT_MS), restart)

    def _wake_relays(self) -> None:
        for task in self._tasks:
            task.wake_relay()
