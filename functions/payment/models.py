"""What the payment worker handles: messages, payments, and what went wrong."""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, NamedTuple, TypeVar
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

BODY_LIMIT_BYTES = 64 * 1024
REASON_LIMIT_CHARS = 500
INT4_MAX = 2**31 - 1
INT8_MAX = 2**63 - 1
_MESSAGE_ID = re.compile(r"[\x21-\x7e]{1,255}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class State(StrEnum):
    """How far a payment has come; the last four are final, but what succeeded may be refunded.

    A payment that was abandoned is looked up once more with every delivery of its message: another
    one may have asked for the charge in that very moment.
    """

    STARTED = "started"  # the provider may or may not have been asked
    PAID = "paid"  # the provider took the money, the booking has not been told
    DECLINED = "declined"  # the provider refused, the booking still holds its tickets
    REFUNDING = "refunding"  # paid, but the booking is gone or was cancelled: give it back
    SUCCEEDED = "succeeded"  # paid, and the booking is confirmed
    FAILED = "failed"  # not paid, and the booking holds no tickets
    REFUNDED = "refunded"  # paid and given back
    ABANDONED = "abandoned"  # not asked for any more, because the booking had ended

    @property
    def is_final(self) -> bool:
        """Whether nothing is left to do for a payment, as far as anybody knows."""
        return self in _FINAL


_FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.REFUNDED, State.ABANDONED})


@dataclass(frozen=True, slots=True)
class Payment:
    """The payment of one booking.

    Attributes:
        amount_minor: in the minor unit of `currency`, an ISO 4217 code; both as they were when the
            booking was made. A booking without a price has an empty currency.
        reason: why it was declined, refunded or abandoned; empty otherwise.

    """

    booking_id: UUID
    ticket_count: int
    amount_minor: int
    currency: str
    state: State
    reason: str


class Received(NamedTuple):
    """A payment as a message found it, by the database's clock at `now`.

    `attempt` is the id of this delivery's attempt; `started_now` says that there was no payment
    before.
    """

    payment: Payment
    attempt: str
    started_now: bool
    now: datetime


class Unparseable(Exception):  # noqa: N818 - says what the message is
    """A message that no retry can make readable; the text says what is wrong with it."""


class Outage(Exception):  # noqa: N818 - says what happened
    """Something that the worker needs is away; the message waits for as long as it takes."""


class UnexpectedAnswer(Exception):  # noqa: N818 - says what happened
    """A service gave an answer that its contract does not allow here."""


def _usable_request_id(value: object) -> object:
    """Drop an odd request id: it only serves the logs, and must not stop a payment."""
    return value if isinstance(value, str) and _REQUEST_ID.fullmatch(value) else ""


class BookingCreated(BaseModel):
    """The body of a booking.created message, as far as payment reads it."""

    model_config = ConfigDict(strict=True, frozen=True)

    booking_id: UUID
    ticket_count: int = Field(ge=1, le=INT4_MAX)
    amount_minor: int = Field(ge=0, le=INT8_MAX)
    currency: str = Field(pattern=r"^([A-Z]{3})?$")
    hold_expires_at: AwareDatetime  # as it was when the booking was made
    request_id: Annotated[str, BeforeValidator(_usable_request_id)] = ""


class BookingCancelled(BaseModel):
    """The body of a booking.cancelled message, as far as payment reads it."""

    model_config = ConfigDict(strict=True, frozen=True)

    booking_id: UUID
    payment_status: Literal["pending", "paid", "declined", "refunding", "refunded"]
    reason: str = Field(default="", max_length=REASON_LIMIT_CHARS)
    request_id: Annotated[str, BeforeValidator(_usable_request_id)] = ""


BodyT = TypeVar("BodyT", bound=BaseModel)


def readable(reason: str) -> str:
    """Return a reason that came from elsewhere as it can be stored, passed on and shown."""
    shown = "".join(character if character.isprintable() else " " for character in reason)
    return shown.strip()[:REASON_LIMIT_CHARS]


def read_message_id(message_id: object) -> str:
    """Return the id of a message, which is what makes a second delivery of it harmless.

    What is no UTF-8 comes as bytes.

    Raises:
        Unparseable: there is none, or none that can be stored.

    """
    if not isinstance(message_id, str) or not _MESSAGE_ID.fullmatch(message_id):
        raise Unparseable("the message has no usable message id")
    return message_id


def read_request_id(body: bytes) -> str:
    """Return the request id of a message of whatever kind, for the logs; "" if it has none."""
    try:
        value = json.loads(body[:BODY_LIMIT_BYTES])
    except (ValueError, RecursionError):
        return ""
    found = value.get("request_id") if isinstance(value, dict) else None
    return str(_usable_request_id(found))


def read_body(model: type[BodyT], body: bytes) -> BodyT:
    """Return the body of a message as a `model`.

    Raises:
        Unparseable: naming each field that is missing or wrong, without its value.

    """
    if len(body) > BODY_LIMIT_BYTES:
        raise Unparseable(f"the body has more than {BODY_LIMIT_BYTES} bytes")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        problems = "; ".join(
            ".".join(str(part) for part in ("body", *problem["loc"])) + f": {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        raise Unparseable(problems) from None
