"""What can be said of a few measurements: their middle, their spread, and which differ."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

#: From this many runs on, the spread is that of the middle half.
ENOUGH = 4


@dataclass(frozen=True)
class Summary:
    """Measurements of one thing.

    Parameters
    ----------
    runs
        How many there are.
    median
        Their middle.
    low, high
        Quartiles; of fewer than `ENOUGH` runs the extremes.
    """

    runs: int
    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Distance from the low to the high end."""
        return self.high - self.low


def summary(values: Sequence[float]) -> Summary:
    """Summarise measurements, of which there is at least one."""
    if len(values) < ENOUGH:
        low, high = min(values), max(values)
    else:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Summary(len(values), statistics.median(values), low, high)


def apart(one: Summary, other: Summary) -> bool:
    """Tell whether the ranges of two do not even touch, so that noise did not decide.

    One run says nothing of its range, so nothing differs from it.
    """
    if one.runs < 2 or other.runs < 2:
        return False
    return one.low > other.high or other.low > one.high


def ratio(other: Summary, ours: Summary) -> float | None:
    """Return how many times ours another is; None where ours is nothing."""
    return other.median / ours.median if ours.median > 0 and other.median >= 0 else None
