"""The broker: takes messages, and delivers each one to five times, late and out of order."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from payment.logic import Failures
from tests.simulation.database import Message
from tests.simulation.faults import Faults, PublishFate
from tests.simulation.scheduler import Actor, Scheduler

REDELIVERY_MS = 200
CONSUMED = frozenset({"booking.created", "booking.cancelled"})


class Delivery(NamedTuple):
    """A copy of a message on its way to the payment worker, which failed on it before.

    It says that a booking was made, or that it was cancelled, and then how its payment stood.
    """

    booking_id: str
    routing_key: str
    payment_status: str
    failures: Failures = Failures()


class Broker:
    """Holds a delivery until it is acknowledged, whatever becomes of the consumer."""

    def __init__(self, scheduler: Scheduler, faults: Faults) -> None:
        self.consume: Callable[[Delivery], bool]
        self.told: dict[str, list[tuple[str, str]]] = {}
        self.dead_letters: list[tuple[Delivery, str]] = []
        self.on_way = 0  # copies that are not acknowledged yet
        self._actor = Actor("rabbitmq")
        self._scheduler = scheduler
        self._faults = faults

    def publish(self, messages: Sequence[Message]) -> list[Message]:
        """Take messages over, and return those whose confirm arrives."""
        confirmed = []
        for message in messages:
            fate = self._faults.publish(self._scheduler.now_ms)
            self._scheduler.note("broker", message.routing_key, message.subject, fate.name.lower())
            if fate is PublishFate.LOST:
                continue
            self._take(message)
            if fate is PublishFate.CONFIRMED:
                confirmed.append(message)
        return confirmed

    def acknowledge(self) -> None:
        """Forget a copy that had its effect."""
        self.on_way -= 1

    def deliver_later(self, delivery: Delivery, delay_ms: int) -> None:
        """Give a copy (back) to the consumer after a while."""
        self._scheduler.call_later(self._actor, delay_ms, lambda: self._deliver(delivery))

    def _take(self, message: Message) -> None:
        if not message.was_taken:
            message.was_taken = True
            told = self.told.setdefault(message.subject, [])
            told.append((message.routing_key, message.status))
        if message.routing_key not in CONSUMED:
            return
        delivery = Delivery(message.subject, message.routing_key, message.payment_status)
        for delay_ms in self._faults.deliveries_ms():
            self.on_way += 1
            self.deliver_later(delivery, delay_ms)

    def _deliver(self, delivery: Delivery) -> None:
        self._scheduler.note("broker", "delivers", *delivery)
        if not self.consume(delivery):
            self.deliver_later(delivery, REDELIVERY_MS)
