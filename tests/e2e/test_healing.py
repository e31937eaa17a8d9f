"""What is killed comes back by itself, and nothing that was accepted is lost."""

from tests.e2e.cloud import CLUSTER, Cloud, User, wait_for


def _running(cloud: Cloud, service: str) -> int:
    answer = cloud.client("ecs").describe_services(cluster=CLUSTER, services=[service])
    count: int = answer["services"][0]["runningCount"]
    return count


def test_a_killed_booking_task_is_replaced(cloud: Cloud, organizer: User, buyer: User) -> None:
    event_id = cloud.create_event(organizer, total_tickets=10)
    before = cloud.book(buyer, event_id, 1).json()

    cloud.kill("booking.server")
    after = cloud.book_until_there(buyer, event_id, 1)

    assert cloud.settled(buyer, before["id"])["status"] == "CONFIRMED"
    assert cloud.settled(buyer, after["id"])["status"] == "CONFIRMED"
    assert cloud.ledger(event_id) == {"capacity": 10, "remaining": 8, "held": 2}
    assert _running(cloud, "ticketra-local-booking") == 1


def test_a_killed_payment_worker_is_replaced(cloud: Cloud, organizer: User, buyer: User) -> None:
    event_id = cloud.create_event(organizer, total_tickets=10)

    cloud.kill("payment.worker")
    booking = cloud.book_until_there(buyer, event_id, 2)

    assert cloud.settled(buyer, booking["id"])["status"] == "CONFIRMED"
    wait_for(lambda: _running(cloud, "ticketra-local-payment") == 1, "payment did not come back")
