"""Which service may call which method, and the proof that it is that service."""

import hmac
from collections.abc import Iterable, Mapping

from ticketra.errors import Forbidden, Unauthenticated
from ticketra.rpc import CALLER_KEY, CREDENTIAL_KEY, REQUEST_ID_KEY

GATEWAY = "gateway"
EVENT = "event"
PAYMENT = "payment"
REQUEST_ID_LIMIT = 64

ALLOWED: Mapping[str, frozenset[str]] = {
    "CreateBooking": frozenset({GATEWAY}),
    "GetBooking": frozenset({GATEWAY}),
    "ListBookings": frozenset({GATEWAY}),
    "CancelBooking": frozenset({GATEWAY, PAYMENT}),
    "ConfirmBooking": frozenset({PAYMENT}),
    "BatchConfirmBookings": frozenset({PAYMENT}),
    "ExtendHold": frozenset({PAYMENT}),
    "RecordRefund": frozenset({PAYMENT}),
    "ListTickets": frozenset({GATEWAY}),
    "PutSale": frozenset({EVENT}),
    "CloseSale": frozenset({EVENT}),
    "GetAvailability": frozenset({EVENT}),
}


class Callers:
    """Knows the credential of each calling service."""

    def __init__(self, credentials: Mapping[str, str]) -> None:
        self._credentials = {name: value.encode() for name, value in credentials.items()}

    def identify(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> tuple[str, str]:
        """Return the caller's name and its request id ("" if there is none).

        Raises:
            Unauthenticated: the caller is unknown, or its credential is wrong.
            Forbidden: the method is not for this caller.

        """
        values = dict(metadata)
        caller = _text(values.get(CALLER_KEY))
        expected = self._credentials.get(caller, b"")
        sent = _text(values.get(CREDENTIAL_KEY)).encode()
        if not hmac.compare_digest(expected, sent) or not expected:
            raise Unauthenticated("invalid_caller", "The calling service is not known here.")
        if caller not in ALLOWED[method]:
            raise Forbidden("caller_not_allowed", f"{caller} may not call {method}.")
        return caller, _text(values.get(REQUEST_ID_KEY))[:REQUEST_ID_LIMIT]


def _text(value: str | bytes | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else value.decode("latin-1")
