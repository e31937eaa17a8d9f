"""What the demo does: sells two tickets, checks them, and shows a decline giving six back."""

import json
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from demo import show
from demo.client import Client, DemoError
from ticketra.door import Door

SETTLED_WITHIN_S = 60.0
POLL_S = 0.2
TOTAL_TICKETS = 100
PAID_COUNT = 2
TICKET_KEYS_PATH = "/api/bookings/.well-known/jwks.json"
DECLINED_COUNT = 6  # the mock bank pays for up to five tickets


def run(api_url: str) -> None:
    """Register, log in, create an event, book twice, and watch what payment makes of it."""
    client = Client(api_url)
    show.headline("A buyer registers and logs in")
    email = f"ada.{secrets.token_hex(4)}@example.com"
    login = {"email": email, "password": secrets.token_urlsafe(12)}
    client.call("POST", "/api/auth/register", login, expect=201, shown=["id", "role"])
    answer = client.call(
        "POST", "/api/auth/login", login, expect=200, shown=["token_type", "expires_in"]
    )
    client.token = answer["token"]

    show.headline(f"An event with {TOTAL_TICKETS} tickets")
    event = client.call(
        "POST", "/api/events", _event(), expect=201, shown=["id", "available_tickets", "status"]
    )

    show.headline(f"Book {PAID_COUNT}: payment accepts it")
    paid = _book(client, event["id"], PAID_COUNT)
    _watch_booking(client, paid["id"], "CONFIRMED")
    _show_availability(client, event["id"], TOTAL_TICKETS - PAID_COUNT)

    show.headline("Its tickets, checked at the door without asking anybody")
    _show_tickets(client, paid["id"])

    show.headline(f"Book {DECLINED_COUNT}: the bank declines it, and the tickets come back")
    declined = _book(client, event["id"], DECLINED_COUNT)
    _watch_booking(client, declined["id"], "CANCELLED")
    _show_availability(client, event["id"], TOTAL_TICKETS - PAID_COUNT)


def _event() -> dict[str, Any]:
    date = (datetime.now(UTC) + timedelta(days=90)).replace(hour=18, minute=0, second=0)
    return {
        "title": "Tarkan Konseri",
        "location": "Harbiye",
        "date": date.isoformat(timespec="seconds"),
        "total_tickets": TOTAL_TICKETS,
        "price": {"amount_minor": 75000, "currency": "TRY"},
    }


def _book(client: Client, event_id: str, count: int) -> Any:
    body = {"event_id": event_id, "ticket_count": count}
    return client.call(
        *("POST", "/api/bookings", body), expect=201, keyed=True, shown=["id", "status", "amount"]
    )


def _watch_booking(client: Client, booking_id: str, until: str) -> None:
    path = f"/api/bookings/{booking_id}"
    show.request("GET", path, None)
    started = time.monotonic()
    seen = ""

    def reached() -> bool:
        nonlocal seen
        booking = client.read(path)
        if booking is not None and booking["status"] != seen:
            seen = booking["status"]
            reason = f" ({booking['reason']})" if booking.get("reason") else ""
            show.note(
                f"{time.monotonic() - started:5.2f} s  {seen}, "
                f"payment {booking['payment_status']}{reason}"
            )
        return seen == until

    _wait(reached, f"the booking did not become {until}")


def _show_availability(client: Client, event_id: str, expected: int) -> None:
    path = f"/api/events/{event_id}"
    show.request("GET", path, None)

    def reached() -> bool:
        event = client.read(path)
        return event is not None and event["available_tickets"] == expected

    _wait(reached, f"the event does not show {expected} available tickets")
    show.note(f"{expected} of {TOTAL_TICKETS} tickets available")


def _show_tickets(client: Client, booking_id: str) -> None:
    path = f"/api/bookings/{booking_id}/tickets"
    show.request("GET", path, None)
    tickets, keys = _read_until_there(client, path), _read_until_there(client, TICKET_KEYS_PATH)
    entrance = Door(json.dumps(keys))
    answers = [entrance.check(ticket["code"]) for ticket in tickets]
    for answer in answers:
        show.note(answer.text)
    if len(answers) != PAID_COUNT or not all(answer.lets_in for answer in answers):
        raise DemoError(f"the booking does not have {PAID_COUNT} good tickets")
    show.note(f"as a QR code: {path}/1/qr.svg")


def _read_until_there(client: Client, path: str) -> Any:
    found: Any = None

    def reached() -> bool:
        nonlocal found
        found = client.read(path)
        return found is not None

    _wait(reached, f"nothing is at {path}")
    return found


def _wait(reached: Callable[[], bool], failure: str) -> None:
    give_up_at = time.monotonic() + SETTLED_WITHIN_S
    while not reached():
        if time.monotonic() > give_up_at:
            raise DemoError(f"{failure} within {SETTLED_WITHIN_S:.0f} s")
        time.sleep(POLL_S)
