"""Events, and the bodies of the function's requests and answers."""

import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from event.currencies import CURRENCIES

TITLE_LIMIT_CHARS = 200
LOCATION_LIMIT_CHARS = 200
CATEGORY_LIMIT_CHARS = 50
DESCRIPTION_LIMIT_CHARS = 5_000
TICKETS_LIMIT = 1_000_000
PRICE_LIMIT_MINOR = 10**9  # what the booking service sells at
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)

Status = Literal["SCHEDULED", "CANCELLED"]

_RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:[Zz]|[+-]\d{2}:\d{2})", re.ASCII
)
_LINE_BREAKS = frozenset("\n\r\t")


def _rfc_3339(value: object) -> object:
    """Let pass only what RFC 3339 allows: no bare numbers, and never without a zone."""
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise ValueError("must be a time with zone (RFC 3339), such as 2030-07-20T21:00:00Z")
    return value


def _in_range_utc(value: datetime) -> datetime:
    """Return `value` in UTC and whole milliseconds, which is what MongoDB keeps."""
    if not EARLIEST <= value < LATEST:
        raise ValueError(f"must lie in the years {EARLIEST.year} to {LATEST.year - 1}")
    return in_milliseconds(value.astimezone(UTC))


def in_milliseconds(value: datetime) -> datetime:
    """Return `value` without what is below a millisecond."""
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


def _one_line(value: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise ValueError("must not hold control characters")
    return value


def _lines(value: str) -> str:
    _one_line("".join(c for c in value if c not in _LINE_BREAKS))
    return value


def _currency(value: str) -> str:
    if value not in CURRENCIES:
        raise ValueError("must be an ISO 4217 code, such as EUR")
    return value


def _line(limit_chars: int) -> object:
    return StringConstraints(strip_whitespace=True, min_length=1, max_length=limit_chars)


Instant = Annotated[AwareDatetime, BeforeValidator(_rfc_3339), AfterValidator(_in_range_utc)]
Tickets = Annotated[int, Field(strict=True, ge=1, le=TICKETS_LIMIT)]
Title = Annotated[str, _line(TITLE_LIMIT_CHARS), AfterValidator(_one_line)]
Location = Annotated[str, _line(LOCATION_LIMIT_CHARS), AfterValidator(_one_line)]
Description = Annotated[str, _line(DESCRIPTION_LIMIT_CHARS), AfterValidator(_lines)]
Category = Annotated[str, _line(CATEGORY_LIMIT_CHARS), AfterValidator(_one_line)]
AmountMinor = Annotated[int, Field(strict=True, ge=0, le=PRICE_LIMIT_MINOR)]
Currency = Annotated[str, AfterValidator(_currency)]


class Money(BaseModel):
    """An amount in integer minor units (cents) of an ISO 4217 currency."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    amount_minor: AmountMinor
    currency: Currency


class EventDraft(BaseModel):
    """The body of a request to create an event. Limits that are absent do not apply."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: Title
    location: Location
    date: Instant
    total_tickets: Tickets
    description: Description | None = None
    category: Category | None = None
    price: Money | None = None
    sales_start: Instant | None = None
    sales_end: Instant | None = None
    max_per_booking: Tickets | None = None
    max_per_user: Tickets | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.sales_end is not None and self.sales_end > self.date:
            raise ValueError("sales_end must not be after date")
        last_sale = self.sales_end or self.date
        if self.sales_start is not None and self.sales_start >= last_sale:
            raise ValueError("sales_start must be before sales_end and date")
        if (self.max_per_booking or 0) > (self.max_per_user or TICKETS_LIMIT):
            raise ValueError("max_per_booking must not be above max_per_user")
        return self


class MoneyPatch(BaseModel):
    """A change of a price."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    amount_minor: AmountMinor | None = None
    currency: Currency | None = None


class EventPatch(BaseModel):
    """A JSON merge patch (RFC 7396): what is absent stays, what is null goes.

    What comes out of it has to be a valid EventDraft.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: Title | None = None
    location: Location | None = None
    date: Instant | None = None
    total_tickets: Tickets | None = None
    description: Description | None = None
    category: Category | None = None
    price: MoneyPatch | None = None
    sales_start: Instant | None = None
    sales_end: Instant | None = None
    max_per_booking: Tickets | None = None
    max_per_user: Tickets | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An event. `version` grows with each change; times are in UTC."""

    id: str
    title: str
    description: str | None
    category: str | None
    location: str
    date: datetime
    total_tickets: int
    price: Money | None
    sales_start: datetime | None
    sales_end: datetime | None
    max_per_booking: int | None
    max_per_user: int | None
    status: Status
    organizer_id: str
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class KeptEvent:
    """An event with what its owner's changes need.

    Attributes:
        sale_version: the highest version that any change may have put its sale to.
        prepared: what the event becomes once the change that was begun is finished, if one was.

    """

    event: Event
    sale_version: int
    prepared: Event | None

    @property
    def next_version(self) -> int:
        """A version that was never used, neither for the event nor for its sale."""
        return max(self.event.version, self.sale_version) + 1


@dataclass(frozen=True, slots=True)
class CreationKey:
    """What an organizer's idempotency key stands for: one body, and the event made of it."""

    id: str
    body_hash: str
    event_id: str
    created_at: datetime


class EventBody(BaseModel):
    """An event, as the API shows it. `available_tickets` is null when it is not known just now."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    title: str
    description: str | None
    category: str | None
    location: str
    date: datetime
    total_tickets: int
    available_tickets: int | None = None
    price: Money | None
    sales_start: datetime | None
    sales_end: datetime | None
    max_per_booking: int | None
    max_per_user: int | None
    status: Status
    organizer_id: str
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, event: Event, available_tickets: int | None) -> Self:
        """Return `event` with the tickets that are left now, None if that is not known."""
        body = cls.model_validate(event)
        return body.model_copy(update={"available_tickets": available_tickets})
