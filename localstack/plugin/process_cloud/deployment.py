"""How a service gets from the tasks it has to those it should have: decisions only, no effects."""

from dataclasses import dataclass
from math import ceil, floor

FIRST_DELAY_S = 1.0
DELAY_LIMIT_S = 10.0
STABLE_AFTER_S = 10.0  # a task that ran for so long has not failed to start


@dataclass(frozen=True)
class Counts:
    """Tasks of a deployment that were not told to stop.

    Attributes
    ----------
    steady : int
        Running and, if they have health checks, healthy.
    starting : int
        All others.
    """

    steady: int
    starting: int

    @property
    def total(self) -> int:
        """Return all of them."""
        return self.steady + self.starting


@dataclass(frozen=True)
class Plan:
    """What to do next: tasks to start, and to stop of the new and of older deployments."""

    start: int = 0
    stop_new: int = 0
    stop_old: int = 0


def plan(
    *, desired: int, new: Counts, old: Counts, minimum_percent: int, maximum_percent: int
) -> Plan:
    """Decide the next step of a rolling update, with ECS's bounds.

    At most `maximum_percent` of `desired` exist at once, and older tasks go only while
    `minimum_percent` of `desired` stay steady. Where both together allow no step, one task more
    than desired may exist.
    """
    if new.total > desired:
        return Plan(stop_new=new.total - desired, stop_old=old.total if desired == 0 else 0)
    floor_steady = ceil(desired * minimum_percent / 100)
    ceiling = floor(desired * maximum_percent / 100)
    if floor_steady >= desired:
        ceiling = max(ceiling, desired + 1)
    missing = desired - new.total
    start = max(min(missing, ceiling - new.total - old.total), 0)
    if new.steady >= desired:
        return Plan(stop_old=old.total)
    # Tasks that are not steady serve nobody, so they may go at any time to make room.
    spare = old.starting + max(old.steady + new.steady - floor_steady, 0)
    no_longer_needed = max(new.steady + old.total - desired, 0)
    wanted = missing - start if ceiling <= desired else no_longer_needed
    return Plan(start=start, stop_old=min(old.total, spare, max(wanted, 0)))


class RestartBackoff:
    """The delay before a replacement: none at first, then growing while tasks die young."""

    def __init__(self) -> None:
        self.failures = 0

    @property
    def delay_s(self) -> float:
        """Return the delay before the next start."""
        if self.failures <= 1:
            return 0.0
        return float(min(FIRST_DELAY_S * 2 ** (self.failures - 2), DELAY_LIMIT_S))

    def ended(self, ran_s: float) -> None:
        """Note that a task ended by itself after having run for so long."""
        self.failures = self.failures + 1 if ran_s < STABLE_AFTER_S else 1
