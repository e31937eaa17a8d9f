"""What the simulation found, each shown directly or by the seeds that found it."""

from booking.markers import SoldOutMarkers
from tests.simulation.guards import Guard
from tests.simulation.test_simulation import find_failing_seed
from tests.simulation.world import World

SEEDS = range(2_000, 5_000)  # the first of these shows it soon


def test_an_old_announcement_does_not_let_an_old_marker_in() -> None:
    """Announced as 8, then late as 5: a marker that was decided in 7 must stay out."""
    markers = SoldOutMarkers(lambda: 0.5)
    markers.reopen("concert", 8)
    markers.reopen("concert", 5)
    markers.put("concert", 7, seen_at=0.0)
    assert not markers.is_sold_out("concert")


def test_an_old_announcement_leaves_a_newer_marker() -> None:
    markers = SoldOutMarkers(lambda: 0.5)
    markers.reopen("concert", 8)
    markers.put("concert", 8, seen_at=0.0)
    markers.reopen("concert", 8)
    assert markers.is_sold_out("concert")


def test_a_payment_that_came_late_respects_the_limit_of_a_user() -> None:
    """The world that breaks without that check does not break with it."""
    seed = find_failing_seed(SEEDS, frozenset({Guard.LATE_PAYMENT_LIMIT}))
    assert seed is not None
    World(seed).run()
