"""The relay of a task: publishes what is unpublished, while no other task does."""

from itertools import islice

from tests.simulation.broker import Broker
from tests.simulation.database import Database, Message
from tests.simulation.scheduler import Actor, Reply, Steps

BATCH_LIMIT = 4
BACK_OFF_MS = 300


class Relay:
    """Follows `ticketra.relay`: publish, then mark, and die between the two if it has to be."""

    def __init__(self, actor: Actor, database: Database, broker: Broker) -> None:
        self._actor = actor
        self._database = database
        self._broker = broker
        self._faults = database.faults
        self._messages: Reply[None] = Reply(database.scheduler)

    def wake(self) -> None:
        """Something was committed that the world has to be told, or the lead is free."""
        self._messages.set_result(None)

    def run(self) -> Steps[None]:
        """Relay whenever this task can get the lead; never returns."""
        database = self._database
        while True:
            if database.relay not in {None, self._actor}:
                yield from self._woken()
                continue
            database.relay = self._actor
            messages = list(islice(database.unpublished(), BATCH_LIMIT))
            if not messages:
                yield from self._woken()
                continue
            yield self._faults.step_ms(self._actor)
            yield from self._mark(self._broker.publish(messages), len(messages))

    def _mark(self, safe: list[Message], sent: int) -> Steps[None]:
        yield self._faults.step_ms(self._actor)
        if not self._faults.loses_answer():
            for message in safe:
                message.published = True
        if len(safe) < sent:
            yield BACK_OFF_MS

    def _woken(self) -> Steps[None]:
        yield from self._messages.wait()
        self._messages = Reply(self._database.scheduler)
