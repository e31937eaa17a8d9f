"""How properties are tested here: the same examples each time, however slow the machine is."""

from hypothesis import settings

repeatable = settings(derandomize=True, deadline=None, max_examples=200)
