"""What the code alone does not say: an example of every problem, header and parameter."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

REQUEST_ID = "5f0c8c7e-6f0b-4b55-9a2d-2f6b8f2c7a11"
EVENT_ID = "6b02c8aa7f59299e0c4b1389"
BOOKING_ID = "01a202df-dd98-74ef-80a9-33293ac41310"
TICKET_ID = "01a202df-dea4-7b0c-9f51-2c7d08e1a6b3"
USER_ID = "01a202df-d58c-7c33-aca5-eb0dc1cdf91f"
TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIwMWEyMDJkZiJ9.c2lnbmF0dXJl"  # noqa: S105 - an example
TICKET_CODE = (
    "eyJhbGciOiJFZERTQSIsImtpZCI6IjhmMDNjMTVkN2JhMjQ2ZTkiLCJ0eXAiOiJ0aWNrZXQrand0In0"
    ".eyJqdGkiOiIwMWEyMDJkZiJ9.c2lnbmF0dXJl"
)
REFRESH_TOKEN = "vG0n4o0c1mZ3s8QeUq2J5u7bXwzKp6YtR9aLhDfTiE0"  # noqa: S105 - an example


class Example(NamedTuple):
    """An example of a problem: its sentence, and what else is in it."""

    detail: str
    more: Mapping[str, Any] = MappingProxyType({})


class Parameter(NamedTuple):
    """An example of a parameter, and what it is where the code does not say so."""

    example: Any
    description: str = ""


_WRONG_FIELD = {
    "errors": [{"field": "ticket_count", "message": "Input should be greater than or equal to 1"}]
}

PROBLEMS = {
    "authentication_required": Example("Send an access token: Authorization: Bearer <token>."),
    "bad_request": Example("The request could not be read."),
    "body_too_large": Example("The body may have at most 65536 bytes."),
    "booking_expired": Example("The booking expired, and its tickets went back on sale."),
    "booking_limit": Example("A booking may hold at most 6 tickets."),
    "booking_not_found": Example("There is no booking with this id."),
    "booking_unavailable": Example("Bookings cannot be reached at the moment: try again shortly."),
    "capacity_below_sold": Example("40 tickets are held or sold: the capacity cannot be less."),
    "email_taken": Example("This e-mail address has an account: log in instead."),
    "event_busy": Example("Event is busy, try again"),
    "event_cancelled": Example("The event is cancelled and cannot be changed."),
    "event_not_found": Example("There is no such event: check event_id."),
    "headers_too_large": Example("The headers may have at most 16384 bytes."),
    "idempotency_mismatch": Example(
        "This Idempotency-Key was used before with another request: send a new key."
    ),
    "internal_error": Example("Something went wrong on our side; the request id helps us find it."),
    "invalid_credentials": Example("The e-mail address or the password is wrong."),
    "invalid_refresh_token": Example("The refresh token is not valid any more: log in again."),
    "invalid_token": Example("The access token is not valid: log in again."),
    "list_too_slow": Example("These filters take too long together: narrow them, or sort by date."),
    "malformed_json": Example("The body is not valid JSON."),
    "malformed_request": Example("The request could not be read."),
    "not_enough_tickets": Example("Fewer tickets are left than asked for: 2.", {"available": 2}),
    "not_found": Example("There is nothing at this path."),
    "not_your_event": Example("Only the event's organizer may change it."),
    "precondition_failed": Example("The event has changed since: read it again, then change it."),
    "precondition_required": Example("Send the ETag of the event that you know as If-Match."),
    "sale_closed": Example("The sale is closed and cannot be changed."),
    "sale_not_open": Example("The sale of this event opens at 2030-06-01T09:00:00+00:00."),
    "sold_out": Example("The event is sold out; tickets that come back go on sale again."),
    "temporarily_unavailable": Example(
        "Something that we need is away for the moment: try again shortly."
    ),
    "ticket_not_found": Example("The booking has no ticket with this number."),
    "ticket_void": Example("The ticket is void: its booking was cancelled."),
    "tickets_not_issued": Example(
        "Tickets are issued when the booking is confirmed: ask again when it is."
    ),
    "timeout": Example("The answer took too long: try again."),
    "token_expired": Example("The access token has expired: log in or refresh it."),
    "too_many_attempts": Example("Too many attempts to log in failed: wait, and try again."),
    "too_many_requests": Example("Too many requests at once: try again shortly."),
    "unavailable": Example("The database cannot be reached for the moment: try again."),
    "validation_failed": Example("Some fields are missing or wrong: see errors.", _WRONG_FIELD),
}

_USER = {
    "id": USER_ID,
    "email": "ada@example.com",
    "role": "user",
    "created_at": "2030-05-01T09:00:00Z",
}
_ACCOUNT = {"email": "ada@example.com", "password": "correct horse"}
_DRAFT = {
    "title": "Open air",
    "location": "Harbiye",
    "date": "2030-07-20T21:00:00Z",
    "total_tickets": 100,
    "description": "Bring a blanket.",
    "category": "concert",
    "price": {"amount_minor": 75000, "currency": "TRY"},
    "sales_start": "2030-06-01T09:00:00Z",
    "sales_end": "2030-07-20T18:00:00Z",
    "max_per_booking": 6,
    "max_per_user": 6,
}
BODIES: dict[str, Any] = {
    "AccountRequest": _ACCOUNT,
    "BookingBody": {
        "id": BOOKING_ID,
        "event_id": EVENT_ID,
        "user_id": USER_ID,
        "ticket_count": 2,
        "amount": {"amount_minor": 150000, "currency": "TRY"},
        "status": "PENDING",
        "payment_status": "pending",
        "reason": None,
        "hold_expires_at": "2030-06-01T09:10:00Z",
        "created_at": "2030-06-01T09:00:00Z",
        "updated_at": "2030-06-01T09:00:00Z",
    },
    "BookingRequest": {"event_id": EVENT_ID, "ticket_count": 2},
    "EventBody": {
        "id": EVENT_ID,
        **_DRAFT,
        "available_tickets": 98,
        "status": "SCHEDULED",
        "organizer_id": USER_ID,
        "created_at": "2030-05-01T09:00:00Z",
        "updated_at": "2030-05-01T09:00:00Z",
    },
    "EventDraft": _DRAFT,
    "EventPatch": {"title": "Open air, the second evening", "sales_end": None},
    "PasswordChange": {
        "current_password": "correct horse",
        "new_password": "battery staple",
    },
    "RefreshRequest": {"refresh_token": REFRESH_TOKEN},
    "Session": {
        "token": TOKEN,
        "token_type": "Bearer",
        "expires_in": 900,
        "refresh_token": REFRESH_TOKEN,
    },
    "TicketBody": {
        "id": TICKET_ID,
        "booking_id": BOOKING_ID,
        "number": 1,
        "code": TICKET_CODE,
        "status": "valid",
    },
    "User": _USER,
}
"""The example of each body, by the name of its schema."""

_KEY_SET = {
    "type": "object",
    "required": ["keys"],
    "properties": {
        "keys": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["kty", "crv", "x", "kid", "alg", "use"],
                "properties": {
                    "kty": {"const": "OKP"},
                    "crv": {"const": "Ed25519"},
                    "x": {"type": "string"},
                    "kid": {"type": "string"},
                    "alg": {"const": "EdDSA"},
                    "use": {"const": "sig"},
                },
            },
        }
    },
}
_KEY = {
    "kty": "OKP",
    "crv": "Ed25519",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    "kid": "2030-01",
    "alg": "EdDSA",
    "use": "sig",
}
_KEY_SET_ANSWER = {"application/json": {"schema": _KEY_SET, "example": {"keys": [_KEY]}}}
_CALENDAR = (
    "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//Ticketra//Ticketra//EN\r\nBEGIN:VEVENT\r\n"
    f"UID:{EVENT_ID}@ticketra\r\nDTSTAMP:20300501T090000Z\r\nDTSTART:20300720T210000Z\r\n"
    "SUMMARY:Open air\r\nLOCATION:Harbiye\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
)
OTHER_ANSWERS: dict[str, dict[str, Any]] = {
    "get_calendar_file": {
        "text/calendar": {
            "schema": {"type": "string"},
            "example": _CALENDAR,
        }
    },
    "get_docs_file": {
        "text/css": {"schema": {"type": "string"}},
        "application/javascript": {"schema": {"type": "string"}},
    },
    "get_docs_page": {"text/html": {"schema": {"type": "string"}}},
    "get_openapi_document": {"application/json": {"schema": {"type": "object"}}},
    "get_qr_png": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
    "get_qr_svg": {"image/svg+xml": {"schema": {"type": "string"}}},
    "get_ticket_keys": _KEY_SET_ANSWER,
    "jwks": _KEY_SET_ANSWER,
}
"""What an operation answers that is no model of ours, by the operation's id."""

HEADERS = {
    "Cache-Control": ("How long the answer may be kept.", "no-store"),
    "Content-Disposition": (
        "A name to save it under.",
        f'attachment; filename="event-{EVENT_ID}.ics"',
    ),
    "ETag": ("The version of what is shown; send it back as If-Match.", '"3-98"'),
    "Idempotent-Replayed": ("`true` where the key was used before.", "true"),
    "Link": ("The neighbouring pages (RFC 8288).", '<?cursor=MjA&limit=20>; rel="next"'),
    "Location": ("Where what was made is found.", f"/api/bookings/{BOOKING_ID}"),
    "Retry-After": ("Seconds to wait before asking again.", "1"),
    "WWW-Authenticate": ("Which credential is asked for.", 'Bearer realm="ticketra"'),
    "X-Request-Id": ("The id of this request in our logs.", REQUEST_ID),
    "X-Total-Count": ("How many there are on all pages.", "240"),
    "X-Total-Count-Relation": ("`eq`, or `gte` where X-Total-Count is a lower bound.", "eq"),
}
"""Description and example of each header of an answer."""

PARAMETERS: dict[str, Parameter] = {
    "booking_id": Parameter(BOOKING_ID, "The booking's id."),
    "category": Parameter("concert"),
    "cursor": Parameter("MjA", "Where to go on: from the Link header of the page before."),
    "event_id": Parameter(EVENT_ID, "The event's id."),
    "from": Parameter("2030-07-01T00:00:00Z"),
    "idempotency-key": Parameter(
        "9d1f7e0a-6c0e-4d43-8a0b-6f1f3f1d2b77",
        "Makes a repeated request have one effect: the same key with the same body answers as the "
        "first time.",
    ),
    "if-match": Parameter('"3-98"', "The ETag of the event that you know; `*` is any."),
    "if-none-match": Parameter(
        '"3-98"', "The ETag that you have: answered with 304 if nothing has changed."
    ),
    "limit": Parameter(20, "How many to show at most."),
    "location": Parameter("Harbiye"),
    "name": Parameter("page.js", "A file of the page."),
    "number": Parameter(1, "The number of the ticket, from 1 to the booking's `ticket_count`."),
    "organizer": Parameter(USER_ID),
    "page": Parameter(1, "The number of the page, from 1."),
    "q": Parameter("open air"),
    "sort": Parameter("date"),
    "status": Parameter("SCHEDULED", "The state of the events."),
    "to": Parameter("2030-08-01T00:00:00Z"),
    "user_id": Parameter(USER_ID, "Whose bookings: your own, unless you are an admin."),
}
"""Of each parameter: an example, and a description unless the code has one."""
