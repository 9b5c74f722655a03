"""Whether something that should stay as it is grows: a robust slope over noisy samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Final

__all__ = ["Growth", "grown", "theil_sen"]

MOST_POINTS: Final = 300


@dataclass(frozen=True, slots=True)
class Growth:
    """What became of a quantity: its median, how much it grew by in all, and how much it may."""

    median: float
    grown: float
    allowed: float

    @property
    def is_fine(self) -> bool:
        """Whether it did not grow beyond what is allowed."""
        return self.grown <= self.allowed


def theil_sen(times: Sequence[float], values: Sequence[float]) -> float:
    """The median of the slopes between all pairs of points: up to 29 % of them may be anything. 0 for fewer than two.

    Of more than 300 points every n-th is taken. Sen, "Estimates of the regression coefficient based on Kendall's tau",
    1968.
    """
    step = max(1, -(-len(times) // MOST_POINTS))
    points = list(zip(times, values, strict=True))[::step]
    slopes = [(y2 - y1) / (t2 - t1) for (t1, y1), (t2, y2) in combinations(points, 2) if t2 != t1]
    return median(slopes) if slopes else 0.0


def grown(times: Sequence[float], values: Sequence[float], *, fraction: float, least: float) -> Growth:
    """How much a quantity grew over the times given; a fraction of its median is allowed, at least `least`."""
    if not values:
        return Growth(0.0, 0.0, least)
    middle = median(values)
    return Growth(middle, theil_sen(times, values) * (times[-1] - times[0]), max(fraction * middle, least))
