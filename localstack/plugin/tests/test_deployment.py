from math import ceil

import pytest

from process_cloud.deployment import Counts, Plan, RestartBackoff, plan

NONE = Counts(0, 0)


def decide(desired: int, new: Counts, old: Counts, percent: tuple[int, int] = (100, 200)) -> Plan:
    return plan(
        desired=desired, new=new, old=old, minimum_percent=percent[0], maximum_percent=percent[1]
    )


def test_starts_what_is_missing() -> None:
    assert decide(3, Counts(1, 0), NONE) == Plan(start=2)


def test_stops_what_is_too_much() -> None:
    assert decide(1, Counts(3, 0), NONE) == Plan(stop_new=2)


def test_starts_the_new_before_it_stops_the_old() -> None:
    assert decide(1, NONE, Counts(1, 0)) == Plan(start=1)
    assert decide(1, Counts(0, 1), Counts(1, 0)) == Plan()
    assert decide(1, Counts(1, 0), Counts(1, 0)) == Plan(stop_old=1)


def test_stops_the_old_first_if_no_more_than_desired_may_exist() -> None:
    assert decide(1, NONE, Counts(1, 0), (0, 100)) == Plan(stop_old=1)
    assert decide(1, NONE, NONE, (0, 100)) == Plan(start=1)


def test_desired_zero_stops_everything() -> None:
    assert decide(0, Counts(1, 1), Counts(1, 0)) == Plan(stop_new=2, stop_old=1)
    assert decide(0, NONE, Counts(1, 0)) == Plan(stop_old=1)


@pytest.mark.parametrize("desired", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("percent", [(0, 100), (50, 100), (50, 200), (100, 100), (100, 150)])
def test_every_rollout_ends_and_keeps_its_bounds(desired: int, percent: tuple[int, int]) -> None:
    """Plays a whole rollout, in which started tasks become steady one step later."""
    new, old = NONE, Counts(desired, 0)
    none_may_go = ceil(desired * percent[0] / 100) == desired
    allowed = max(desired * percent[1] // 100, desired + none_may_go)
    for _ in range(10 * desired):
        step = decide(desired, new, old, percent)
        new = Counts(new.steady + new.starting, step.start)
        old = Counts(old.steady - step.stop_old, 0)
        assert new.total + old.total <= allowed
        assert new.steady + old.steady >= desired * percent[0] / 100 - 1e-9
        if (new, old) == (Counts(desired, 0), NONE):
            return
    pytest.fail(f"stuck at {new=} {old=}")


def test_restarts_at_once_then_ever_later_while_tasks_die_young() -> None:
    backoff = RestartBackoff()
    delays = []
    for _ in range(7):
        backoff.ended(ran_s=0.5)
        delays.append(backoff.delay_s)
    assert delays == [0, 1, 2, 4, 8, 10, 10]


def test_a_task_that_ran_long_is_replaced_at_once_again() -> None:
    backoff = RestartBackoff()
    for _ in range(5):
        backoff.ended(ran_s=0.5)
    backoff.ended(ran_s=60)
    assert backoff.delay_s == 0
