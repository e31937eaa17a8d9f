"""The one hierarchy of refusals: what a caller did wrong or has to wait for, with a stable code.

A refusal is raised by logic, never by an entry point, and is mapped once to problem+json
(`ticketra.http`) and once to a gRPC status (`ticketra.rpc`). Anything else that is raised is our
own fault: it is logged with its context and hidden from the caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong with one field of a request."""

    field: str
    message: str


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a failure of ours
    """A request that is answered with a clear 'no'.

    Attributes:
        code: stable, snake_case, what programs compare.
        detail: one sentence for a person, saying what to do.
        retry_after_s: seconds to wait before asking again, if waiting helps.
        available: tickets left, where the refusal is about their number.
        errors: one entry for each wrong field.

    """

    http_status: ClassVar[int] = 400

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        retry_after_s: int | None = None,
        available: int | None = None,
        errors: Sequence[FieldError] = (),
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.available = available
        self.errors = tuple(errors)


class Malformed(Refusal):
    """The request could not even be read."""

    http_status = 400


class Invalid(Refusal):
    """The request was read, but what it asks is not allowed by the contract."""

    http_status = 422


class Unauthenticated(Refusal):
    """No valid credential came with the request."""

    http_status = 401


class Forbidden(Refusal):
    """The caller is known and may not do this."""

    http_status = 403


class NotFound(Refusal):
    """There is no such thing, or none that this caller may know of."""

    http_status = 404


class Conflict(Refusal):
    """The present state does not allow it."""

    http_status = 409


class Busy(Refusal):
    """Too many want the same thing at this moment; trying again soon may succeed."""

    http_status = 409


class PreconditionFailed(Refusal):
    """The caller's If-Match does not name the present version."""

    http_status = 412


class PreconditionRequired(Refusal):
    """The request has to say which version it changes (RFC 6585): If-Match is missing."""

    http_status = 428


class TooLarge(Refusal):
    """The request is larger than the named limit."""

    http_status = 413


class HeadersTooLarge(Refusal):
    """The request's headers are larger than the named limit."""

    http_status = 431


class TooManyRequests(Refusal):
    """This caller has to slow down."""

    http_status = 429


class Unavailable(Refusal):
    """Something that we need is away for the moment."""

    http_status = 503
