"""What a list of events is asked for, and the cursor that goes on where a page ended."""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from event.models import EARLIEST, LATEST, Event, Instant, Status
from ticketra.text import fold, words

PAGE_SIZE = 20
PAGE_SIZE_LIMIT = 100
PAGE_LIMIT = 1_000  # skipping reads what it skips
COUNT_LIMIT = 10_000  # counting reads what it counts
CURSOR_LIMIT_CHARS = 100
TEXT_LIMIT_CHARS = 200
WORDS_LIMIT = 10
ORGANIZER_LIMIT_CHARS = 128

Sort = Literal["newest", "date", "-date"]
_ID = re.compile("[0-9a-f]{24}")
_MILLISECOND = timedelta(milliseconds=1)


class Position(NamedTuple):
    """Where a page ended: the last event's place in its order."""

    sort: Sort
    moment: datetime  # its created_at for `newest`, else its date
    event_id: str


def position_of(event: Event, sort: Sort) -> Position:
    """Return the place of `event` in the order `sort`."""
    return Position(sort, event.created_at if sort == "newest" else event.date, event.id)


def to_cursor(position: Position) -> str:
    """Return `position` in the form that clients keep; they cannot gain anything by forging it."""
    milliseconds = (position.moment - EARLIEST) // _MILLISECOND
    text = json.dumps([position.sort, milliseconds, position.event_id], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def from_cursor(cursor: str) -> Position:
    """Return the position that `to_cursor` wrote.

    Raises:
        ValueError: it wrote no such thing.

    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        sort, milliseconds, event_id = json.loads(base64.b64decode(padded, b"-_", validate=True))
        moment = EARLIEST + milliseconds * _MILLISECOND
        position = Position(sort, moment, event_id)
        if to_cursor(position) == cursor and _is_possible(position):
            return position
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error):
        pass
    raise ValueError("is not one of ours: take it from a Link header")


def _is_possible(position: Position) -> bool:
    return (
        position.sort in ("newest", "date", "-date")
        and EARLIEST <= position.moment < LATEST
        and isinstance(position.event_id, str)
        and _ID.fullmatch(position.event_id) is not None
    )


def _searchable(value: str) -> str:
    if not 1 <= len(words(value)) <= WORDS_LIMIT:
        raise ValueError(f"must hold 1 to {WORDS_LIMIT} words")
    return value


def _known_cursor(value: str) -> str:
    if value:
        from_cursor(value)
    return value


_Text = Annotated[str, StringConstraints(min_length=1, max_length=TEXT_LIMIT_CHARS)]


class ListQuery(BaseModel):
    """The query of a list: filters, which all have to hold, the order, and the page.

    Give `page`, or `cursor`: the latter costs the same at any depth. An empty cursor starts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    q: Annotated[_Text, AfterValidator(_searchable)] | None = Field(
        default=None,
        description="words of the title, location, category and description; all must occur",
    )
    location: _Text | None = Field(
        default=None, description="whole, but without regard to case or accents"
    )
    category: _Text | None = Field(
        default=None, description="whole, but without regard to case or accents"
    )
    organizer: (
        Annotated[str, StringConstraints(min_length=1, max_length=ORGANIZER_LIMIT_CHARS)] | None
    ) = Field(default=None, description="the organizer's id")
    from_: Instant | None = Field(default=None, alias="from", description="not before this date")
    to: Instant | None = Field(default=None, description="before this date")
    status: Status = "SCHEDULED"
    sort: Sort = Field(
        default="newest", description="newest first, soonest first, or latest date first"
    )
    page: int | None = Field(default=None, ge=1, le=PAGE_LIMIT)
    limit: int = Field(default=PAGE_SIZE, ge=1, le=PAGE_SIZE_LIMIT)
    cursor: (
        Annotated[
            str, StringConstraints(max_length=CURSOR_LIMIT_CHARS), AfterValidator(_known_cursor)
        ]
        | None
    ) = Field(default=None, description="from the Link header of the page before; not with `page`")

    @model_validator(mode="after")
    def _parameters_agree(self) -> Self:
        if self.page is not None and self.cursor is not None:
            raise ValueError("page and cursor exclude each other")
        if self.after is not None and self.after.sort != self.sort:
            raise ValueError("cursor belongs to another sort")
        if self.from_ is not None and self.to is not None and self.from_ >= self.to:
            raise ValueError("from must be before to")
        return self

    @property
    def after(self) -> Position | None:
        """The position to go on from."""
        return from_cursor(self.cursor) if self.cursor else None

    @property
    def page_number(self) -> int:
        """The page to skip to, from 1; always 1 with a cursor."""
        return self.page or 1

    @property
    def counts(self) -> bool:
        """Whether the answer says how many events there are."""
        return self.cursor is None

    @property
    def words(self) -> list[str]:
        """The words of `q`, in the form in which they are kept."""
        return words(self.q or "")

    @property
    def location_key(self) -> str | None:
        """The location, in the form in which it is kept."""
        return None if self.location is None else fold(self.location)

    @property
    def category_key(self) -> str | None:
        """The category, in the form in which it is kept."""
        return None if self.category is None else fold(self.category)

    def parameters(self) -> dict[str, str]:
        """Return the parameters that were given, but the page's, for links to other pages."""
        given = self.model_dump(
            mode="json", by_alias=True, exclude_unset=True, exclude={"page", "cursor", "limit"}
        )
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Total:
    """How many events a list has; at least that many if not `exact`."""

    count: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of events; `more` come after it. `total` is None where nobody asked."""

    events: list[Event]
    more: bool
    total: Total | None
