"""Bookings: for whom a caller may book, and which bookings they may see."""

import re
from collections.abc import Callable

from gateway.models import BookingBody, BookingPage, BookingRequest
from ticketra.auth import AccessPolicy, required
from ticketra.booking.v1.booking_pb2 import (
    CancelBookingRequest,
    CreateBookingRequest,
    GetBookingRequest,
    ListBookingsRequest,
)
from ticketra.booking_client import BookingClient
from ticketra.errors import FieldError, Invalid, NotFound
from ticketra.tokens import Principal

CANCEL_REASON = "cancelled by the buyer"
ANYBODY = ""  # in a request to the booking service: whoever's booking it is

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def buyer(policy: AccessPolicy, principal: Principal | None, wanted: str | None) -> str:
    """Return the user to book for, where the request names `wanted` or nobody.

    Under the strict policy that is the caller; naming somebody else is a mistake in the request.
    Under the open policy it is whatever label the request names, or else the caller.

    Raises:
        Unauthenticated: the policy asks for a token.
        Invalid: the request names another user, or an anonymous one names none.

    """
    if policy == "open":
        if wanted is None and principal is None:
            raise _wrong_user("is needed when no token is sent")
        return wanted or required(principal).user_id
    caller = required(principal)
    if wanted not in {None, caller.user_id}:
        raise _wrong_user("must be your own id; it may be left out")
    return caller.user_id


def lister(policy: AccessPolicy, principal: Principal | None, wanted: str | None) -> str:
    """Return the user whose bookings to list; as `buyer`, but an admin may name anybody."""
    if wanted is not None and principal is not None and principal.role == "admin":
        return wanted
    return buyer(policy, principal, wanted)


def reader(policy: AccessPolicy, principal: Principal | None) -> str:
    """Return the user whose booking may be read: the caller's own, or ANYBODY's.

    Raises:
        Unauthenticated: the policy asks for a token.

    """
    if policy == "open":
        return ANYBODY
    caller = required(principal)
    return ANYBODY if caller.role == "admin" else caller.user_id


def canceller(policy: AccessPolicy, principal: Principal | None) -> str:
    """Return the user whose booking may be cancelled: the caller's own, or ANYBODY's.

    Raises:
        Unauthenticated: the policy asks for a token.

    """
    return ANYBODY if policy == "open" else required(principal).user_id


class Bookings:
    """What the gateway does, under one access policy.

    Every method raises the booking service's refusals, and Unavailable when it is away.
    """

    def __init__(
        self, client: BookingClient, *, policy: AccessPolicy, new_key: Callable[[], str]
    ) -> None:
        self._client = client
        self._policy: AccessPolicy = policy
        self._new_key = new_key

    def create(
        self,
        order: BookingRequest,
        principal: Principal | None,
        *,
        idempotency_key: str | None,
        request_id: str,
    ) -> tuple[BookingBody, bool]:
        """Hold tickets; return the booking and whether the key had made it before.

        Without a key one is minted, so that our own retry is safe. On the first try it is marked
        as fresh, which saves the look-up; on the retry it may be known.
        """
        request = CreateBookingRequest(
            event_id=order.event_id,
            user_id=buyer(self._policy, principal, order.user_id),
            ticket_count=order.ticket_count,
            idempotency_key=idempotency_key or self._new_key(),
        )
        fresh = CreateBookingRequest()
        fresh.CopyFrom(request)
        fresh.key_is_fresh = idempotency_key is None
        answer = self._client.call(
            lambda stub: stub.CreateBooking, fresh, again=request, request_id=request_id
        )
        return BookingBody.of(answer.booking), answer.replayed and idempotency_key is not None

    def get(self, booking_id: str, principal: Principal | None, *, request_id: str) -> BookingBody:
        """Return a booking; NotFound if there is none or it is another person's."""
        user_id = reader(self._policy, principal)
        request = GetBookingRequest(id=known_form(booking_id), user_id=user_id)
        booking = self._client.call(lambda stub: stub.GetBooking, request, request_id=request_id)
        return BookingBody.of(booking)

    def page(
        self,
        principal: Principal | None,
        *,
        user_id: str | None,
        limit: int,
        cursor: str,
        request_id: str,
    ) -> BookingPage:
        """Return a user's bookings, newest first, from `cursor` on (empty: from the start)."""
        request = ListBookingsRequest(
            user_id=lister(self._policy, principal, user_id), page_size=limit, cursor=cursor
        )
        answer = self._client.call(lambda stub: stub.ListBookings, request, request_id=request_id)
        return BookingPage(
            bookings=[BookingBody.of(booking) for booking in answer.bookings],
            next_cursor=answer.next_cursor,
        )

    def cancel(
        self, booking_id: str, principal: Principal | None, *, request_id: str
    ) -> BookingBody:
        """Give a booking's tickets back; NotFound if there is none or it is another person's."""
        user_id = canceller(self._policy, principal)
        request = CancelBookingRequest(
            id=known_form(booking_id), user_id=user_id, reason=CANCEL_REASON
        )
        booking = self._client.call(lambda stub: stub.CancelBooking, request, request_id=request_id)
        return BookingBody.of(booking)


def known_form(booking_id: str) -> str:
    """Return `booking_id` as the booking service writes it.

    Raises:
        NotFound: no booking has such an id, as it is no UUID.

    """
    if not _UUID.fullmatch(booking_id):
        raise NotFound("booking_not_found", "There is no booking with this id.")
    return booking_id.lower()


def _wrong_user(message: str) -> Invalid:
    return Invalid(
        "validation_failed",
        "Some fields are missing or wrong: see errors.",
        errors=[FieldError("user_id", message)],
    )
