"""Measures of retrieval, segmentation and tagging; pure functions of what was found and what is true."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Counts", "average_precision_at", "best_iou", "box_mask", "mean", "rank_of", "recall_at", "resized"]

BoolMask = NDArray[np.bool_]
"""Shape [height, width], True inside."""


def rank_of(found: Sequence[str], wanted: str) -> int | None:
    """Place of the one right answer, from 1; None: it was not found."""
    return found.index(wanted) + 1 if wanted in found else None


def recall_at(found: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Share of the relevant that are among the first k, out of as many as k can hold: found / min(k, relevant).

    `relevant` must not be empty.
    """
    return len(set(found[:k]) & set(relevant)) / min(k, len(relevant))


def average_precision_at(found: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Mean of the precision at each relevant one among the first k, out of as many as k can hold.

    `relevant` must not be empty.
    """
    right, total = 0, 0.0
    for place, name in enumerate(found[:k], start=1):
        if name in relevant:
            right += 1
            total += right / place
    return total / min(k, len(relevant))


def best_iou(true: BoolMask, found: Sequence[BoolMask]) -> float:
    """The best intersection over union of a true mask and any found one; 0 if there is none. Sizes may differ."""
    best = 0.0
    for mask in found:
        fitted = resized(true, mask.shape[0], mask.shape[1])
        union = int((fitted | mask).sum())
        if union:
            best = max(best, int((fitted & mask).sum()) / union)
    return best


def resized(mask: BoolMask, height: int, width: int) -> BoolMask:
    """The mask at another size, each pixel from the nearest one."""
    rows = (np.arange(height) * mask.shape[0]) // height
    columns = (np.arange(width) * mask.shape[1]) // width
    chosen: BoolMask = mask[rows[:, None], columns[None, :]]
    return chosen


def box_mask(box: tuple[float, float, float, float], side: int = 256) -> BoolMask:
    """A box (fractions of the sides) as a mask of `side` x `side`, never empty."""
    x0, y0 = (min(round(edge * side), side - 1) for edge in box[:2])
    x1, y1 = (round(edge * side) for edge in box[2:])
    mask = np.zeros((side, side), dtype=np.bool_)
    mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
    return mask


@dataclass(frozen=True)
class Counts:
    """Tags that were right, that were given, and that should have been given, over all images."""

    right: int
    given: int
    true: int

    @classmethod
    def of(cls, given: Mapping[str, Collection[str]], true: Mapping[str, Collection[str]]) -> "Counts":
        """From image -> tags."""
        right = sum(len(set(given.get(image, ())) & set(names)) for image, names in true.items())
        return cls(right, sum(len(set(tags)) for tags in given.values()), sum(len(set(t)) for t in true.values()))

    @property
    def precision(self) -> float:
        """Share of the given tags that are right; 0 where none was given."""
        return self.right / self.given if self.given else 0.0

    @property
    def recall(self) -> float:
        """Share of the true tags that were given; 0 where there are none."""
        return self.right / self.true if self.true else 0.0


def mean(values: Sequence[float]) -> float:
    """The mean; 0 of nothing."""
    return sum(values) / len(values) if values else 0.0
