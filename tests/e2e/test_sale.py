"""The flow of a sale through the deployed stack: book, pay, decline, sell out."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.e2e.cloud import Cloud, User, wait_for

CALLERS = 200
TICKETS = 50
REFUSALS = {"sold_out", "not_enough_tickets", "event_busy"}


def test_a_paid_booking_is_confirmed(cloud: Cloud, organizer: User, buyer: User) -> None:
    event_id = cloud.create_event(organizer, total_tickets=10)

    answer = cloud.book(buyer, event_id, 2)
    assert answer.status_code == 201, answer.text
    booking = answer.json()
    assert answer.headers["Location"] == f"/api/bookings/{booking['id']}"
    assert booking["status"] == "PENDING"
    assert booking["amount"] == {"amount_minor": 10000, "currency": "EUR"}

    settled = cloud.settled(buyer, booking["id"])
    assert (settled["status"], settled["payment_status"]) == ("CONFIRMED", "paid")
    assert cloud.ledger(event_id) == {"capacity": 10, "remaining": 8, "held": 2}
    event = cloud.api.get(f"/api/events/{event_id}").json()
    assert event["available_tickets"] == 8


def test_a_declined_booking_gives_its_tickets_back(
    cloud: Cloud, organizer: User, buyer: User
) -> None:
    event_id = cloud.create_event(organizer, total_tickets=10)

    booking = cloud.book(buyer, event_id, 6).json()

    settled = cloud.settled(buyer, booking["id"])
    assert (settled["status"], settled["payment_status"]) == ("CANCELLED", "declined")
    assert settled["reason"]
    assert cloud.ledger(event_id) == {"capacity": 10, "remaining": 10, "held": 0}
    wait_for(
        lambda: cloud.api.get(f"/api/events/{event_id}").json()["available_tickets"] == 10,
        "the tickets did not come back on sale",
    )


def test_two_hundred_buyers_at_once_get_exactly_the_fifty_tickets(
    cloud: Cloud, organizer: User, buyer: User
) -> None:
    event_id = cloud.create_event(organizer, total_tickets=TICKETS)

    with ThreadPoolExecutor(max_workers=CALLERS) as pool:
        answers = list(pool.map(lambda _: cloud.book(buyer, event_id, 1), range(CALLERS)))

    statuses = Counter(answer.status_code for answer in answers)
    assert statuses == {201: TICKETS, 409: CALLERS - TICKETS}
    refused = [answer for answer in answers if answer.status_code == 409]
    assert {answer.headers["content-type"] for answer in refused} == {"application/problem+json"}
    assert {answer.json()["code"] for answer in refused} <= REFUSALS
    ledger = cloud.ledger(event_id)
    assert (ledger["remaining"], ledger["held"]) == (0, TICKETS)


def test_the_same_key_books_once(cloud: Cloud, organizer: User, buyer: User) -> None:
    event_id = cloud.create_event(organizer, total_tickets=10)

    first, second = (cloud.book(buyer, event_id, 1, key="the-same-key") for _ in range(2))

    assert first.status_code == 201
    assert second.json()["id"] == first.json()["id"]
    assert cloud.ledger(event_id)["remaining"] == 9


def test_another_persons_booking_is_not_found(cloud: Cloud, organizer: User, buyer: User) -> None:
    event_id = cloud.create_event(organizer, total_tickets=10)
    booking = cloud.book(buyer, event_id, 1).json()

    seen = cloud.api.get(f"/api/bookings/{booking['id']}", headers=organizer.headers)
    cancelled = cloud.api.post(f"/api/bookings/{booking['id']}/cancel", headers=organizer.headers)

    assert (seen.status_code, cancelled.status_code) == (404, 404)
