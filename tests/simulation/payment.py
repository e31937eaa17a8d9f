"""The payment worker and its provider. What comes next is decided by `payment.logic`."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from booking.models import CANCELLED, EXPIRED, PAYMENT_REFUNDING, Booking
from payment.logic import (
    ROUTING_KEY_OF,
    Acknowledge,
    Answer,
    DeadLetter,
    Retry,
    Step,
    hold_is_short,
    next_step,
    settlement,
    state_after,
    state_when_cancelled,
)
from payment.mock_bank import decide
from payment.models import Outage, State, UnexpectedAnswer
from payment.provider import ChargeStatus
from tests.simulation.broker import Broker, Delivery
from tests.simulation.database import Database
from tests.simulation.guards import Guard
from tests.simulation.scheduler import Actor, Reply, Scheduler, Steps
from tests.simulation.task import Task
from tests.simulation.writer import HOLD_TTL
from ticketra.errors import Busy, Refusal, TooManyRequests, Unavailable
from ticketra.messages import BOOKING_CREATED, RETRY_DELAYS_S

# Time is short here: a hold lasts for seconds, so a retry comes after a fraction of its delay.
RETRY_MS_PER_S = 50
LONGEST_RETRY = timedelta(milliseconds=RETRY_DELAYS_S[-1] * RETRY_MS_PER_S)
HOLD_MARGIN = timedelta(seconds=1)

GONE = frozenset({"tickets_gone", "booking_cancelled", "booking_not_found"})

# Sends a call to some booking task; the answer is None if none comes in time.
Call = Callable[[Callable[[Task, Reply[Any]], None]], Steps[Any]]

_ANSWER_OF = {
    ChargeStatus.PAID: Answer.CHARGE_PAID,
    ChargeStatus.DECLINED: Answer.CHARGE_DECLINED,
    ChargeStatus.REFUNDED: Answer.CHARGE_REFUNDED,
}


class Bank:
    """The mock provider's books. A call may have its effect and get no answer."""

    def __init__(self, database: Database) -> None:
        self._scheduler = database.scheduler
        self._faults = database.faults
        self._invariants = database.invariants
        self._off = database.off
        self._charges: dict[str, ChargeStatus] = {}

    def charge(self, booking_id: str, ticket_count: int) -> Answer:
        """Take the money of a booking, once.

        Raises:
            Outage: nobody knows whether it was taken.

        """
        self._fail()
        if booking_id not in self._charges or Guard.CHARGE_KEY in self._off:
            status = decide(ticket_count).status
            self._charges[booking_id] = status
            if status is ChargeStatus.PAID:
                self._invariants.buyer_is_charged(booking_id)
        self._fail()
        return _ANSWER_OF[self._charges[booking_id]]

    def look_up(self, booking_id: str) -> Answer:
        """Return what is known of a charge."""
        self._fail()
        status = self._charges.get(booking_id)
        return Answer.CHARGE_UNKNOWN if status is None else _ANSWER_OF[status]

    def refund(self, booking_id: str) -> Answer:
        """Give the money of a booking back, once."""
        self._fail()
        if self._charges[booking_id] is ChargeStatus.PAID:
            self._charges[booking_id] = ChargeStatus.REFUNDED
            self._invariants.buyer_is_refunded(booking_id)
        self._fail()
        return _ANSWER_OF[self._charges[booking_id]]

    def _fail(self) -> None:
        if self._faults.provider_fails(self._scheduler.now_ms):
            raise Outage("the provider does not answer")


class Books:
    """The tables of payments, which outlive every worker: states, and what the world is told."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.told: dict[str, list[str]] = {}

    def tell(self, booking_id: str, state: State) -> None:
        """Put what the world is told of a state, if anything, into the outbox."""
        if state in ROUTING_KEY_OF:
            self.told.setdefault(booking_id, []).append(ROUTING_KEY_OF[state])


class PaymentWorker:
    """Handles deliveries, several at once; dies and comes back with what it has stored."""

    def __init__(
        self,
        actor: Actor,
        database: Database,
        broker: Broker,
        *,
        bank: Bank,
        books: Books,
        call: Call,
    ) -> None:
        self.actor = actor
        self._database = database
        self._scheduler: Scheduler = database.scheduler
        self._faults = database.faults
        self._broker = broker
        self._bank = bank
        self._books = books
        self._states = books.states
        self._call = call
        self._unsettled: dict[int, Delivery] = {}
        self._next_tag = 0

    def consume(self, delivery: Delivery) -> bool:
        """Start to handle a delivery; False if nobody is there."""
        if not self.actor.alive:
            return False
        self._next_tag += 1
        self._unsettled[self._next_tag] = delivery
        self._scheduler.start(self.actor, self._settle(self._next_tag, delivery))
        return True

    def give_back(self) -> None:
        """What a dead worker had not settled is delivered again."""
        for delivery in self._unsettled.values():
            delay_ms = self._faults.up_to(500) + self._faults.backlog_ms()
            self._broker.deliver_later(delivery, delay_ms)

    def _settle(self, tag: int, delivery: Delivery) -> Steps[None]:
        error: Exception | None = None
        try:
            if delivery.routing_key == BOOKING_CREATED:
                yield from self._charge(delivery.booking_id)
            else:
                yield from self._refund(delivery)
        except (Outage, UnexpectedAnswer) as raised:
            error = raised
        yield self._step_ms()
        del self._unsettled[tag]
        match settlement(error, delivery.failures):
            case Acknowledge():
                self._broker.acknowledge()
            case Retry(delay_s=delay_s, failures=failures):
                again = delivery._replace(failures=failures)
                delay_ms = delay_s * RETRY_MS_PER_S + self._faults.backlog_ms()
                self._broker.deliver_later(again, delay_ms)
            case DeadLetter(reason=reason):
                self._broker.dead_letters.append((delivery, reason))
                self._broker.acknowledge()

    def _refund(self, delivery: Delivery) -> Steps[None]:
        """As `PaymentProcessor.refund`: one stored step at a time."""
        booking_id = delivery.booking_id
        if delivery.payment_status != PAYMENT_REFUNDING:
            return
        if Guard.REFUND_AFTER_CANCEL in self._database.off:
            return
        yield self._step_ms()
        if booking_id not in self._states:
            raise UnexpectedAnswer("a booking was confirmed and cancelled without a payment")
        state = self._states[booking_id]
        while (cancelled := state_when_cancelled(state)) is not state:
            yield self._step_ms()
            state = yield from self._move(booking_id, state, cancelled)
            if Guard.REFUND_DECIDED_AGAIN in self._database.off:
                break
        answer: Answer | None = None
        while (step := next_step(state, answer)) is not Step.FINISH:
            state, answer = yield from self._advance(step, state, booking_id)

    def _charge(self, booking_id: str) -> Steps[None]:
        """As `PaymentProcessor.charge`: one stored step at a time."""
        yield self._step_ms()
        started_now = booking_id not in self._states
        if started_now:
            self._states[booking_id] = State.STARTED
        state = self._states[booking_id]
        gone = False
        if state is State.STARTED:
            gone = yield from self._begin(booking_id)
        answer = Answer.CHARGE_UNKNOWN if started_now else None
        try:
            while (step := next_step(state, answer, booking_is_gone=gone)) is not Step.FINISH:
                state, answer = yield from self._advance(step, state, booking_id)
        except (Outage, UnexpectedAnswer):
            if state is State.STARTED and not gone:
                yield from self._hold_on(booking_id)
            raise

    def _begin(self, booking_id: str) -> Steps[bool]:
        """Have the hold last until the attempt has ended; return whether the booking is gone."""
        database = self._database
        now, off = database.now, database.off
        gone = False
        hold_expires_at = database.bookings[booking_id].created_at + HOLD_TTL  # by the message
        short = hold_is_short(hold_expires_at, now, HOLD_MARGIN)
        if short and Guard.HOLD_FOR_ATTEMPT not in off:
            gone = yield from self._extend_hold(booking_id)
        if not gone:
            database.invariants.payment_is_in_flight(booking_id, now + HOLD_MARGIN)
        return gone

    def _hold_on(self, booking_id: str) -> Steps[None]:
        """Have the hold last until the next attempt, if booking can be reached."""
        database = self._database
        now, gone = database.now, False
        if Guard.HOLD_FOR_RETRY not in database.off:
            try:
                gone = yield from self._extend_hold(booking_id)
            except (Outage, UnexpectedAnswer):
                return
        if not gone:
            database.invariants.payment_is_in_flight(booking_id, now + LONGEST_RETRY)

    def _extend_hold(self, booking_id: str) -> Steps[bool]:
        said = yield from self._ask(lambda task, reply: task.extend_hold(booking_id, reply))
        self._scheduler.note(self.actor.name, booking_id, "extends the hold and hears", said)
        if isinstance(said, Booking):
            return said.status in {CANCELLED, EXPIRED}
        return _outcome(said, Answer.BOOKING_GONE, Answer.BOOKING_GONE) is Answer.BOOKING_GONE

    def _advance(
        self, step: Step, state: State, booking_id: str
    ) -> Steps[tuple[State, Answer | None]]:
        yield self._step_ms()
        answer = yield from self._take(step, state, booking_id)
        self._scheduler.note(self.actor.name, booking_id, state, "takes", step, "and hears", answer)
        reached = state_after(state, answer)
        yield self._step_ms()
        if reached is state:
            return state, answer
        return (yield from self._move(booking_id, state, reached)), None

    def _move(self, booking_id: str, state: State, reached: State) -> Steps[State]:
        """Bring a payment to a state unless it has moved before; return where it is now."""
        off = self._database.off
        self._database.invariants.seen[f"payment {state} to {reached}"] += 1
        if self._states[booking_id] is state or Guard.PAYMENT_CONDITION in off:
            self._states[booking_id] = reached
            if Guard.PAYMENT_OUTBOX in off:
                yield self._step_ms()
            self._books.tell(booking_id, reached)
        return self._states[booking_id]

    def _take(self, step: Step, state: State, booking_id: str) -> Steps[Answer]:
        match step:
            case Step.LOOK_UP:
                return self._look_up(state, booking_id)
            case Step.CHARGE:
                booking = self._database.bookings[booking_id]
                return self._bank.charge(booking_id, booking.ticket_count)
            case Step.ABANDON:
                return Answer.BOOKING_GONE
            case Step.REFUND:
                return self._bank.refund(booking_id)
            case _:
                return (yield from self._tell_booking(step, booking_id))

    def _tell_booking(self, step: Step, booking_id: str) -> Steps[Answer]:
        if step is Step.RECORD_REFUND:
            return (yield from self._record_refund(booking_id))
        if step is Step.CONFIRM:
            said = yield from self._ask(lambda task, reply: task.confirm(booking_id, reply))
            return _outcome(said, Answer.BOOKING_CONFIRMED, Answer.BOOKING_GONE)
        said = yield from self._ask(lambda task, reply: task.decline(booking_id, reply))
        return _outcome(said, Answer.BOOKING_RELEASED, Answer.BOOKING_RELEASED)

    def _record_refund(self, booking_id: str) -> Steps[Answer]:
        if Guard.REFUND_RECORDED in self._database.off:
            return Answer.REFUND_RECORDED
        said = yield from self._ask(lambda task, reply: task.record_refund(booking_id, reply))
        return _outcome(said, Answer.REFUND_RECORDED, Answer.REFUND_RECORDED)

    def _look_up(self, state: State, booking_id: str) -> Answer:
        off = self._database.off
        if state is State.STARTED and Guard.CHARGE_LOOKUP in off:
            return Answer.CHARGE_DECLINED
        if state is State.ABANDONED and Guard.ABANDONED_LOOKUP in off:
            return Answer.CHARGE_UNKNOWN
        return self._bank.look_up(booking_id)

    def _ask(self, send: Callable[[Task, Reply[Any]], None]) -> Steps[Any]:
        if self._faults.booking_is_away(self._scheduler.now_ms):
            return None
        return (yield from self._call(send))

    def _step_ms(self) -> int:
        return self._faults.step_ms(self.actor) + self._faults.stall_ms()


def _outcome(said: Booking | Refusal | None, done: Answer, gone: Answer) -> Answer:
    """As `payment.bookings.Bookings`: tell what is away from what is gone.

    Raises:
        Outage: booking is away.
        UnexpectedAnswer: booking said what it must not say here.

    """
    if said is None or isinstance(said, Busy | TooManyRequests | Unavailable):
        raise Outage("booking is away")
    if not isinstance(said, Refusal):
        return done
    if said.code in GONE:
        return gone
    raise UnexpectedAnswer(f"booking answered {said.code}")
