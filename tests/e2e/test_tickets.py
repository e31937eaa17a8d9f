"""Tickets from the booking to the door: listed, verified offline, shown as QR codes, void."""

from typing import Any

import httpx
import jwt
import pytest

from supervisor.progress import Progress
from supervisor.rotate import rotate_ticket_keys
from supervisor.secrets import read
from supervisor.void_tickets import list_void_tickets
from tests.e2e.cloud import Cloud, User, wait_for
from tests.unit.gateway.pictures import text_in_png, text_in_svg
from ticketra import void_list
from ticketra.door import Door

SEATS = 3
DECLINED_COUNT = 6
OF_AN_IMG_ELEMENT = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"


@pytest.fixture
def event_id(cloud: Cloud, organizer: User) -> str:
    return cloud.create_event(organizer, total_tickets=10)


@pytest.fixture
def booking_id(cloud: Cloud, buyer: User, event_id: str) -> str:
    """A booking that has been paid."""
    return _settled(cloud, buyer, event_id, SEATS, "CONFIRMED")


def _settled(cloud: Cloud, buyer: User, event_id: str, count: int, status: str) -> str:
    booking = cloud.settled(buyer, cloud.book_until_there(buyer, event_id, count)["id"])
    assert booking["status"] == status
    return str(booking["id"])


def _get(cloud: Cloud, caller: User, booking_id: str, rest: str, **headers: str) -> httpx.Response:
    path = f"/api/bookings/{booking_id}/tickets{rest}"
    return cloud.api.get(path, headers=caller.headers | headers)


def _tickets(cloud: Cloud, buyer: User, booking_id: str) -> list[dict[str, Any]]:
    answer = _get(cloud, buyer, booking_id, "")
    assert answer.status_code == 200, answer.text
    tickets: list[dict[str, Any]] = answer.json()
    return tickets


def test_each_seat_has_a_code_that_a_door_verifies_offline(
    cloud: Cloud, buyer: User, event_id: str, booking_id: str
) -> None:
    first = _get(cloud, buyer, booking_id, "?limit=2")
    rest = _get(cloud, buyer, booking_id, first.links["next"]["url"])
    tickets = first.json() + rest.json()
    keys = cloud.api.get("/api/bookings/.well-known/jwks.json")

    assert keys.headers["cache-control"] == "public, max-age=300"
    entrance = Door(keys.text)
    for number, ticket in enumerate(tickets, start=1):
        assert (ticket["booking_id"], ticket["number"]) == (booking_id, number)
        assert ticket["status"] == "valid"
        shown = f"ticket {number} of booking {booking_id} for event {event_id} ({ticket['id']})"
        assert entrance.check(ticket["code"]) == (True, f"VALID    {shown}")
    assert (len(tickets), "next" in rest.links) == (SEATS, False)
    assert _tickets(cloud, buyer, booking_id) == tickets


@pytest.mark.parametrize("accept", ["*/*", "image/png", OF_AN_IMG_ELEMENT, "application/json"])
def test_a_camera_reads_the_code_from_what_arrives(
    cloud: Cloud, buyer: User, booking_id: str, accept: str
) -> None:
    code = _tickets(cloud, buyer, booking_id)[1]["code"]

    png = _get(cloud, buyer, booking_id, "/2/qr.png", Accept=accept)
    svg = _get(cloud, buyer, booking_id, "/2/qr.svg", Accept=accept)

    assert (png.status_code, png.headers["content-type"]) == (200, "image/png")
    assert (svg.status_code, svg.headers["content-type"]) == (200, "image/svg+xml")
    assert text_in_png(png.content) == text_in_svg(svg.content) == code
    for picture in (png, svg):
        assert picture.headers["cache-control"] == "private, max-age=60"


def test_tickets_of_a_cancelled_booking_are_void(
    cloud: Cloud, buyer: User, event_id: str, booking_id: str, capfd: pytest.CaptureFixture[str]
) -> None:
    printed = _tickets(cloud, buyer, booking_id)

    cancelled = cloud.api.post(f"/api/bookings/{booking_id}/cancel", headers=buyer.headers)
    assert cancelled.status_code == 200, cancelled.text

    void = [ticket | {"status": "void", "code": None} for ticket in printed]
    assert _tickets(cloud, buyer, booking_id) == void
    for name in ("/1/qr.svg", "/1/qr.png"):
        refused = _get(cloud, buyer, booking_id, name)
        assert (refused.status_code, refused.json()["code"]) == (409, "ticket_void")
    keys = read(cloud.settings).tickets_jwks()
    assert Door(keys).check(printed[0]["code"]).lets_in  # offline nobody can tell
    assert list_void_tickets(cloud.settings, event_id) == 0
    listed = void_list.read(capfd.readouterr().out.splitlines(), event_id)
    assert listed == {ticket["id"] for ticket in printed}
    assert Door(keys, listed).check(printed[0]["code"]).text.startswith("VOID")


def test_a_booking_that_was_not_paid_has_no_tickets(
    cloud: Cloud, buyer: User, event_id: str
) -> None:
    booking_id = _settled(cloud, buyer, event_id, DECLINED_COUNT, "CANCELLED")

    for rest in ("", "/1/qr.svg", "/1/qr.png"):
        refused = _get(cloud, buyer, booking_id, rest)
        assert (refused.status_code, refused.json()["code"]) == (409, "tickets_not_issued")


def test_another_persons_tickets_are_not_found(
    cloud: Cloud, organizer: User, booking_id: str
) -> None:
    for rest in ("", "/1/qr.svg", "/1/qr.png"):
        refused = _get(cloud, organizer, booking_id, rest)
        assert (refused.status_code, refused.json()["code"]) == (404, "booking_not_found")


def test_a_number_beyond_the_last_is_not_found(cloud: Cloud, buyer: User, booking_id: str) -> None:
    refused = _get(cloud, buyer, booking_id, f"/{SEATS + 1}/qr.svg")

    assert (refused.status_code, refused.json()["code"]) == (404, "ticket_not_found")


def test_a_new_key_signs_and_printed_codes_stay_valid(
    cloud: Cloud, buyer: User, booking_id: str
) -> None:
    printed = _tickets(cloud, buyer, booking_id)[0]["code"]
    before = cloud.task_processes("booking.server")

    rotate_ticket_keys(cloud.settings, Progress(None))

    secrets = read(cloud.settings)
    fresh = _tickets(cloud, buyer, booking_id)[0]["code"]
    assert jwt.get_unverified_header(fresh)["kid"] == secrets.ticket_keys["active"]
    assert jwt.get_unverified_header(printed)["kid"] != secrets.ticket_keys["active"]
    for code in (printed, fresh):
        assert Door(secrets.tickets_jwks()).check(code).lets_in
    wait_for(lambda: not any(task.is_running() for task in before), "an old task did not end")
