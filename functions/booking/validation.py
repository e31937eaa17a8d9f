"""What a request must look like before anything else is asked."""

import re
import uuid
from collections.abc import Sequence

from ticketra.errors import FieldError, Invalid

EVENT_ID_LIMIT = 64
USER_ID_LIMIT = 128
KEY_LIMIT = 255
REASON_LIMIT = 500
TICKET_COUNT_LIMIT = 1_000
CAPACITY_LIMIT = 1_000_000
AMOUNT_LIMIT_MINOR = 1_000_000_000
PAGE_SIZE_DEFAULT = 20
PAGE_SIZE_LIMIT = 100
AVAILABILITY_LIMIT = 100
CONFIRMATIONS_LIMIT = 500
PROBLEMS_LIMIT = 20  # they travel in the answer's metadata, which gRPC bounds to 8 KiB

_VISIBLE_ASCII = re.compile(r"[!-~]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CURRENCY = re.compile(r"[A-Z]{3}")


class Problems:
    """Collects what is wrong with the fields of one request, and refuses it once."""

    def __init__(self) -> None:
        self._found: list[FieldError] = []

    def add(self, field: str, message: str) -> None:
        """Note one wrong field; what is wrong beyond PROBLEMS_LIMIT is not told."""
        if len(self._found) < PROBLEMS_LIMIT:
            self._found.append(FieldError(field, message))

    def event_id(self, value: str, field: str = "event_id") -> None:
        """An event id is 1 to EVENT_ID_LIMIT visible ASCII characters."""
        if len(value) > EVENT_ID_LIMIT or not _VISIBLE_ASCII.fullmatch(value):
            self.add(field, f"must be 1 to {EVENT_ID_LIMIT} visible ASCII characters")

    def user_id(self, value: str) -> None:
        """A user id is 1 to USER_ID_LIMIT characters without control characters."""
        if not 1 <= len(value) <= USER_ID_LIMIT or _CONTROL.search(value):
            self.add("user_id", f"must be 1 to {USER_ID_LIMIT} characters, none of them control")

    def key(self, value: str) -> None:
        """An idempotency key is absent, or 1 to KEY_LIMIT visible ASCII characters."""
        if value and (len(value) > KEY_LIMIT or not _VISIBLE_ASCII.fullmatch(value)):
            self.add("idempotency_key", f"must be 1 to {KEY_LIMIT} visible ASCII characters")

    def reason(self, value: str) -> None:
        """A reason has at most REASON_LIMIT characters without control characters."""
        if len(value) > REASON_LIMIT or _CONTROL.search(value):
            self.add("reason", f"must have at most {REASON_LIMIT} characters, none of them control")

    def within(self, field: str, value: int, low: int, high: int) -> None:
        """A number is between `low` and `high`, both included."""
        if not low <= value <= high:
            self.add(field, f"must be between {low} and {high}")

    def price(self, amount_minor: int, currency: str) -> None:
        """A price has an ISO 4217 code, unless it is nothing."""
        self.within("terms.price.amount_minor", amount_minor, 0, AMOUNT_LIMIT_MINOR)
        if not _CURRENCY.fullmatch(currency) and (currency or amount_minor):
            self.add("terms.price.currency", "must be three upper-case letters (ISO 4217)")

    def event_ids(self, values: Sequence[str]) -> None:
        """One call asks for at most AVAILABILITY_LIMIT events."""
        if not 1 <= len(values) <= AVAILABILITY_LIMIT:
            self.add("event_ids", f"must hold 1 to {AVAILABILITY_LIMIT} ids")
        for position, value in enumerate(values[:AVAILABILITY_LIMIT]):
            self.event_id(value, f"event_ids[{position}]")

    def refuse(self) -> None:
        """Refuse the request if anything is wrong with it.

        Raises:
            Invalid: `validation_failed`, with one entry for each wrong field.

        """
        if self._found:
            raise Invalid(
                "validation_failed",
                "Some fields are missing or wrong: see errors.",
                errors=self._found,
            )


def is_uuid(value: str) -> bool:
    """Say whether `value` is a UUID in its usual form."""
    try:
        return str(uuid.UUID(value)) == value.lower()
    except ValueError:
        return False
