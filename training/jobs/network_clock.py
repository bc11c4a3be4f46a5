"""Timing several ways of one computation: they take turns, so that what slows the machine slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

ClockName = Literal["wall", "processor"]


def median_ms(
    ways: Mapping[str, Callable[[], object]], rounds: int, clock: ClockName = "wall", repeats: int = 1
) -> dict[str, float]:
    """Time ways of doing the same, after one call of each to warm up.

    Args:
        ways: Computations by name.
        rounds: Turns of each.
        clock: `processor` counts the time of this process only, for shared machines; with several threads it is their
            sum.
        repeats: Calls of one turn; more for computations that last less than a millisecond.

    Returns:
        Median milliseconds of one call, by name.

    Raises:
        ValueError: A count is below one.
    """
    if rounds < 1 or repeats < 1:
        raise ValueError(f"rounds and repeats must be at least 1, got {rounds} and {repeats}")
    now = time.perf_counter if clock == "wall" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            started = now()
            for _ in range(repeats):
                way()
            seconds[name].append((now() - started) / repeats)
    return {name: 1e3 * float(np.median(times)) for name, times in seconds.items()}
