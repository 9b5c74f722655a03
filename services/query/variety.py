"""Results that are not all alike: near-duplicates folded, and maximal marginal relevance. Pure numpy."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.common.domain import Vector

__all__ = ["SAME_PICTURE", "diversified", "folded"]

SAME_PICTURE: Final = 0.98
"""Cosine of whole vectors from which two images are the same picture, saved, scaled or cropped a little otherwise."""


def folded(order: Sequence[int], vectors: Vector, shown: Sequence[int] = ()) -> dict[int, list[int]]:
    """Near-duplicates, each under the best one that it is alike.

    Args:
        order: Indices into `vectors`, best first.
        vectors: Unit-length rows, shape [n, d].
        shown: Indices that earlier pages showed: what is alike one of them is left out for good.

    Returns:
        Those that stay, in order, each with the ones that it stands for.
    """
    stay: dict[int, list[int]] = {}
    known = list(shown)
    for index in order:
        if known:
            alike = vectors[known] @ vectors[index]
            nearest = int(alike.argmax())
            if alike[nearest] >= SAME_PICTURE:
                if known[nearest] in stay:
                    stay[known[nearest]].append(index)
                continue
        stay[index] = []
        known.append(index)
    return stay


def diversified(
    order: Sequence[int], scores: NDArray[np.float64], vectors: Vector, diversity: float, shown: Sequence[int] = ()
) -> list[int]:
    """The order by maximal marginal relevance (Carbonell and Goldstein, 1998).

    Next is always the one with the greatest (1 - diversity) * score - diversity * likeness to any before it, where
    likeness is (1 + cosine) / 2, as scores are. Ties stay in order.

    Args:
        order: Indices into `scores` and `vectors`, best first.
        scores: In [0, 1], shape [n].
        vectors: Unit-length rows, shape [n, d].
        diversity: In [0, 1]; 0 keeps the order.
        shown: Indices that earlier pages showed, which count as before all.
    """
    if not diversity or not order:
        return list(order)
    left = np.array(order, dtype=np.intp)
    rows = vectors[left]
    likeness = np.zeros(len(left))
    if shown:
        likeness = ((1 + rows @ vectors[list(shown)].T) / 2).max(axis=1)
    worth = (1 - diversity) * scores[left]
    open_ = np.ones(len(left), dtype=np.bool_)
    found: list[int] = []
    for _ in range(len(left)):
        at = int(np.where(open_, worth - diversity * likeness, -np.inf).argmax())
        open_[at] = False
        found.append(int(left[at]))
        likeness = np.maximum(likeness, (1 + rows @ rows[at]) / 2)
    return found
