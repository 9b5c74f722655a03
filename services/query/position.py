"""Where things are in an image: places, relations between two things, and counts. Pure numpy.

What a part looks for is found in an image by its segments; those that match it about as well as the image's best one
may be it. How well they stand as asked is in [0, 1], and counts as far as the image shows the thing at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.domain import Box
from services.query.domain import Place, Placement, Relation, RelationKind

__all__ = ["Layout", "Wishes", "as_array", "count_agreement", "place_agreement", "relation_agreement"]

# A segment may be what is sought if its cosine is not much below that of the image's best match.
_RIVAL_COSINE = 0.05
# An image shows a thing for sure where its best match is as good as any candidate's, and not below this share of it.
_ABSENT = 0.6
# For counting: segments with at least this share of the best candidate's cosine are one of the things each.
_ONE_OF_THEM = 0.75
# Two boxes of which so much of the smaller lies in the larger are one thing, found twice.
_SAME_THING = 0.6
# Differences of centres, as shares of the picture's sides: at most the first, a side is not yet decided; beyond, it is.
_DECIDED = 0.1
# A gap between two boxes of this share of the picture's sides is no nearness any more.
_FAR = 0.3

Floats = NDArray[np.float64]
Boxes = NDArray[np.float64]
"""Shape [m, 4]: x0, y0, x1, y1 as shares of the picture's sides."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a query's parts should stand.

    Attributes:
        placements: For each part where it should be, or None.
        counts: For each part how many of it there should be; 0: any number.
        relations: Between two parts each.
        weight: What their agreement counts in a score, in [0, 1]; the rest is what the parts look like.
    """

    placements: tuple[Placement | None, ...]
    counts: tuple[int, ...]
    relations: tuple[Relation, ...]
    weight: float

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self.weight > 0 and (bool(self.relations) or any(self.counts) or any(self.placements))


@dataclass(frozen=True, slots=True)
class Layout:
    """The segments of one image, as a query sees them.

    Attributes:
        boxes: Shape [m, 4].
        cosines: Of each part with each segment, shape [parts, m].
        best: The best cosine of each part with any segment of any candidate, shape [parts].
    """

    boxes: Boxes
    cosines: Floats
    best: Floats

    def agreement(self, wishes: Wishes) -> float:
        """How well the image stands as asked, in [0, 1]: the mean over all wishes; 0 without segments."""
        if not len(self.boxes):
            return 0.0
        found = [
            self._placed(part, placement) for part, placement in enumerate(wishes.placements) if placement is not None
        ]
        found += [self._counted(part, count) for part, count in enumerate(wishes.counts) if count]
        found += [self._related(relation) for relation in wishes.relations]
        return float(np.mean(found)) if found else 0.0

    def _placed(self, part: int, placement: Placement) -> float:
        return self._presence(part) * float((self._rivals(part) * place_agreement(self.boxes, placement)).max())

    def _related(self, relation: Relation) -> float:
        first, second = relation.first, relation.second
        stands = relation_agreement(self.boxes, self.boxes, relation.kind)
        # One segment is not two things.
        np.fill_diagonal(stands, 0.0)
        pairs = self._rivals(first)[:, np.newaxis] * self._rivals(second)[np.newaxis, :] * stands
        return min(self._presence(first), self._presence(second)) * float(pairs.max())

    def _counted(self, part: int, count: int) -> float:
        like = np.flatnonzero(self.cosines[part] >= _ONE_OF_THEM * max(self.best[part], 0.0))
        order = like[np.argsort(-self.cosines[part][like], kind="stable")]
        return self._presence(part) * count_agreement(_distinct(self.boxes[order]), count)

    def _rivals(self, part: int) -> Floats:
        """How far each segment may be what the part means, in (0, 1], shape [m]."""
        cosines = self.cosines[part]
        return np.asarray(np.exp((cosines - cosines.max()) / _RIVAL_COSINE))

    def _presence(self, part: int) -> float:
        """Whether the image shows what the part means, in [0, 1]."""
        best = max(float(self.best[part]), 1e-6)
        return float(np.clip((self.cosines[part].max() / best - _ABSENT) / (1 - _ABSENT), 0.0, 1.0))


def place_agreement(boxes: Boxes, placement: Placement) -> Floats:
    """How far boxes [m, 4] are where they should be, in [0, 1], shape [m].

    A named place is a third of the picture: 1 with the centre in it, 0 from a third beyond. A box: the share of each
    box that lies in it.
    """
    if placement.box is not None:
        inside = _overlap(boxes, as_array([placement.box]))[:, 0]
        return np.asarray(inside / np.maximum(_areas(boxes), 1e-9))
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    off = {
        Place.LEFT: x - 1 / 3,
        Place.RIGHT: 2 / 3 - x,
        Place.TOP: y - 1 / 3,
        Place.BOTTOM: 2 / 3 - y,
        Place.CENTER: np.maximum(np.abs(x - 0.5), np.abs(y - 0.5)) - 1 / 6,
    }[placement.place]
    return np.asarray(np.clip(1 - 3 * off, 0.0, 1.0))


def relation_agreement(first: Boxes, second: Boxes, kind: RelationKind) -> Floats:
    """How far each of n boxes [n, 4] stands to each of m boxes [m, 4] as asked, in [0, 1], shape [n, m]."""
    if kind is RelationKind.INSIDE:
        return np.asarray(_overlap(first, second) / np.maximum(_areas(first), 1e-9)[:, np.newaxis])
    if kind is RelationKind.NEAR:
        gaps = [
            np.maximum(first[:, np.newaxis, low] - second[:, high], second[:, low] - first[:, np.newaxis, high])
            for low, high in ((0, 2), (1, 3))
        ]
        return np.asarray(np.clip(1 - np.hypot(*np.maximum(gaps, 0.0)) / _FAR, 0.0, 1.0))
    axis = 0 if kind in {RelationKind.LEFT_OF, RelationKind.RIGHT_OF} else 1
    ahead = (second[:, axis] + second[:, axis + 2]) / 2 - (
        first[:, np.newaxis, axis] + first[:, np.newaxis, axis + 2]
    ) / 2
    if kind in {RelationKind.RIGHT_OF, RelationKind.BELOW}:
        ahead = -ahead
    return np.asarray(np.clip(0.5 + ahead / (2 * _DECIDED), 0.0, 1.0))


def count_agreement(found: int, wanted: int) -> float:
    """1 for as many as wanted, less by 1 / wanted for each that is missing or over, not below 0."""
    return max(0.0, 1 - abs(found - wanted) / wanted)


def _distinct(boxes: Boxes) -> int:
    """How many things the boxes [k, 4], best first, are: one in which another lies for the most part is the same."""
    kept: list[int] = []
    shared, areas = _overlap(boxes, boxes), _areas(boxes)
    for i in range(len(boxes)):
        if all(shared[i, k] <= _SAME_THING * min(areas[i], areas[k]) for k in kept):
            kept.append(i)
    return len(kept)


def as_array(boxes: Sequence[Box]) -> Boxes:
    """Boxes as the functions here take them."""
    return np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes], dtype=np.float64).reshape(-1, 4)


def _areas(boxes: Boxes) -> Floats:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _overlap(first: Boxes, second: Boxes) -> Floats:
    """Shared area of each of [n, 4] with each of [m, 4], shape [n, m]."""
    low = np.maximum(first[:, np.newaxis, :2], second[np.newaxis, :, :2])
    high = np.minimum(first[:, np.newaxis, 2:], second[np.newaxis, :, 2:])
    sides = np.maximum(high - low, 0.0)
    return np.asarray(sides[..., 0] * sides[..., 1])
