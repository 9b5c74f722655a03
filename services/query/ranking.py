"""From vectors to scores. Pure numpy: no input or output, no state.

For every part of the query a candidate has up to two raw values: the cosine of its whole vector with the part's, and
the agreement of its segments with the part's. A text, a region or a vector is one thing: its agreement is the cosine of
the candidate's best match. A picture has segments of its own: its agreement is the mean of both ways, of each of its
segments' best match in the candidate and of each of the candidate's in it. Each raw value is calibrated, and the
greater of the two all but decides; docs/decisions/0004-ranking.md has the formula and why.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.domain import Vector
from services.query.position import Layout, Wishes

__all__ = [
    "NO_WISHES",
    "Candidates",
    "Fusion",
    "Match",
    "PartScore",
    "PartVectors",
    "Scores",
    "calibrate",
    "interleave",
    "salience",
]

# How many of a query picture's own segments, those that count most, show their match.
_SHOWN_SEGMENTS = 3
# Exponent of the power mean of whole and segment fit: 1 would be the mean, infinity the greater one.
_SHARPNESS = 32

NO_WISHES = Wishes((), (), (), 0.0)
"""Of a query that does not care where things are."""
# Sums of the same numbers in another order differ behind this place; such scores are ties.
_SCORE_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class PartVectors:
    """A part of the query as vectors.

    Attributes:
        weight: Finite; negative: away from it.
        vector: Unit-length, shape [d]: compared with whole images.
        segments: Unit-length rows, shape [s, d], s >= 1: compared with segments.
        counts: What each of `segments` counts, > 0, shape [s]; their sum is 1.
        is_picture: Whether `segments` are what was found in a picture, so that both ways of matching count.
    """

    weight: float
    vector: Vector
    segments: Vector
    counts: NDArray[np.float64]
    is_picture: bool = False

    @classmethod
    def single(cls, weight: float, vector: Vector) -> "PartVectors":
        """A part that is one thing: a text, a region, a vector."""
        return cls(weight, vector, vector[np.newaxis], np.ones(1))

    @classmethod
    def picture(cls, weight: float, vector: Vector, segments: Sequence[tuple[Vector, float]]) -> "PartVectors":
        """A whole picture, with the (vector, area) of each of its segments; without any it is its own only one."""
        if not segments:
            return cls.single(weight, vector)
        counts = salience(np.array([area for _, area in segments]))
        return cls(weight, vector, np.stack([row for row, _ in segments]), counts / counts.sum(), is_picture=True)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Images to rank, with their vectors.

    Attributes:
        ids: n names, none twice.
        whole: Unit-length rows, shape [n, d]; None where whole images do not count.
        segments: Unit-length rows, shape [m, d]; the segments of one image are neighbours, in the order of `ids`.
        owners: Index into `ids` for each of `segments`, ascending, shape [m].
        counts: What each of `segments` counts among those of its image, > 0, shape [m].
        boxes: x0, y0, x1, y1 of each of `segments` as shares of its picture's sides, shape [m, 4].
    """

    ids: tuple[str, ...]
    whole: Vector | None
    segments: Vector
    owners: NDArray[np.intp]
    counts: NDArray[np.float64]
    boxes: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fusion:
    """What whole-image and segment similarity count: >= 0, not both 0."""

    whole: float
    segment: float


@dataclass(frozen=True, slots=True)
class PartScore:
    """How one kind of comparison went into a score; `part` None: of the whole query."""

    part: int | None
    kind: str
    raw: float
    calibrated: float
    weight: float


@dataclass(frozen=True, slots=True)
class Match:
    """A candidate's segment that answers a part: its row in `Candidates.segments`, and the cosine."""

    part: int
    row: int
    similarity: float


def calibrate(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines in [-1, 1] as scores in [0, 1], by (1 + cos) / 2; of any shape.

    The one place to put a measured calibration; it has to rise with the cosine.
    """
    return (1.0 + np.clip(raw, -1.0, 1.0)) / 2.0


def salience(areas: NDArray[np.float64]) -> NDArray[np.float64]:
    """What segments count, in (0, 1], by the share of their picture that they cover: (1 - area)^2.

    What covers most of a picture is its background, or what the whole vector describes.
    """
    return np.square(np.maximum(1.0 - areas, 1e-3))


def interleave(lists: Sequence[Sequence[str]], limit: int) -> list[str]:
    """The first `limit` names of several ranked lists: all firsts, all seconds and so on; none twice."""
    merged: dict[str, None] = {}
    for rank in range(max(map(len, lists), default=0)):
        for ranked in lists:
            if rank < len(ranked):
                merged.setdefault(ranked[rank])
                if len(merged) == limit:
                    return list(merged)
    return list(merged)


class Scores:
    """Scores of candidates for a query.

    A candidate that has no segments yet, in a query where whole images count too, is judged by its whole vector
    alone; where only segments count it is no result.
    """

    def __init__(
        self, parts: Sequence[PartVectors], candidates: Candidates, fusion: Fusion, wishes: Wishes = NO_WISHES
    ) -> None:
        """Compare every part with every candidate, and where they stand with what is wished."""
        self._parts = parts
        self._candidates = candidates
        n = len(candidates.ids)
        self._has_segments = np.bincount(candidates.owners, minlength=n) > 0
        self._starts = np.searchsorted(candidates.owners, np.arange(n))
        self._whole = np.zeros((len(parts), n))
        self._segment = np.zeros((len(parts), n))
        if candidates.whole is not None:
            self._whole = np.stack([_cosines(candidates.whole, part.vector) for part in parts])
        if len(candidates.segments):
            self._segment = np.stack([self._segment_agreement(part) for part in parts])
        whole_weight = np.full(n, fusion.whole) if candidates.whole is not None else np.zeros(n)
        segment_weight = np.where(self._has_segments, fusion.segment, 0.0)
        total = whole_weight + segment_weight
        self._judged = total > 0
        total = np.where(self._judged, total, 1.0)
        self._whole_share = whole_weight / total
        self._segment_share = segment_weight / total
        self.scores = self._fuse()
        self._wished = wishes.weight if wishes.any else 0.0
        self._positions = np.zeros(n)
        if self._wished:
            self._positions = self._position_agreement(wishes)
            self.scores = np.round((1 - self._wished) * self.scores + self._wished * self._positions, _SCORE_DECIMALS)

    def order(self, min_score: float = 0.0) -> list[int]:
        """Indices of candidates with at least `min_score`, best first; ties by id."""
        # As callers see them: a score sent back as `min_score` passes its own result.
        passing = np.flatnonzero(self._judged & (self.scores.astype(np.float32) >= np.float32(min_score)))
        return sorted(passing.tolist(), key=lambda i: (-self.scores[i], self._candidates.ids[i]))

    def explain(self, candidate: int) -> list[PartScore]:
        """How the candidate's score came about.

        The rows of one part, with weights w and calibrated values c, make its fit (sum of w * c^32 / sum of w)^(1/32).
        The score is the mean of the parts' fits, 1 - fit for negative weights, weighted by the weights' sizes. Where
        positions are wished for, theirs is a row without a part, with its share of the whole score as weight.
        """
        rows = []
        for index, part in enumerate(self._parts):
            for kind, raw, share in (
                ("whole", self._whole, self._whole_share),
                ("segment", self._segment, self._segment_share),
            ):
                if share[candidate] > 0:
                    value = raw[index, candidate]
                    calibrated = calibrate(np.atleast_1d(value)).item()
                    rows.append(PartScore(index, kind, float(value), calibrated, part.weight * share[candidate]))
        if self._wished:
            agreement = float(self._positions[candidate])
            rows.append(PartScore(None, "position", agreement, agreement, self._wished))
        return rows

    def matches(self, candidate: int) -> list[Match]:
        """The candidate's segments that answer the positive parts, best first.

        One for a text, a region or a vector; for a picture the matches of three of its segments.
        """
        start = self._starts[candidate]
        end = self._starts[candidate + 1] if candidate + 1 < len(self._starts) else len(self._candidates.segments)
        if start == end:
            return []
        own = self._candidates.segments[start:end]
        found: list[Match] = []
        for index, part in enumerate(self._parts):
            if part.weight <= 0:
                continue
            first = np.argsort(-part.counts, kind="stable")[:_SHOWN_SEGMENTS]
            best: dict[int, float] = {}
            for row in part.segments[first]:
                cosines = _cosines(own, row)
                at = int(cosines.argmax())
                best[at] = max(best.get(at, -1.0), float(cosines[at]))
            found.extend(Match(index, int(start) + at, similarity) for at, similarity in best.items())
        return sorted(found, key=lambda match: (-match.similarity, match.part, match.row))

    def _segment_agreement(self, part: PartVectors) -> NDArray[np.float64]:
        cosines = _cosines(self._candidates.segments, part.segments.T)  # [m, s]
        agreement = np.zeros(len(self._candidates.ids))
        # reduceat takes each group up to the next start, so the starts of groups that are there are enough.
        starts, counts = self._starts[self._has_segments], self._candidates.counts
        found = np.maximum.reduceat(cosines, starts, axis=0) @ part.counts
        if part.is_picture:
            known = np.add.reduceat(cosines.max(axis=1) * counts, starts) / np.add.reduceat(counts, starts)
            found = (found + known) / 2
        agreement[self._has_segments] = found
        return agreement

    def _position_agreement(self, wishes: Wishes) -> NDArray[np.float64]:
        """How well each candidate stands as wished, in [0, 1], shape [n]."""
        agreement = np.zeros(len(self._candidates.ids))
        if not len(self._candidates.segments):
            return agreement
        cosines = np.stack([_cosines(self._candidates.segments, part.vector) for part in self._parts])
        best = cosines.max(axis=1)
        bounds = [*self._starts, len(self._candidates.segments)]
        for at in np.flatnonzero(self._has_segments):
            own = slice(bounds[at], bounds[at + 1])
            agreement[at] = Layout(self._candidates.boxes[own], cosines[:, own], best).agreement(wishes)
        return agreement

    def _fuse(self) -> NDArray[np.float64]:
        weights = np.array([part.weight for part in self._parts], dtype=np.float64)
        by_part = (
            self._whole_share * calibrate(self._whole) ** _SHARPNESS
            + self._segment_share * calibrate(self._segment) ** _SHARPNESS
        ) ** (1 / _SHARPNESS)
        towards = np.where(weights[:, np.newaxis] < 0, 1.0 - by_part, by_part)
        shares = np.abs(weights) / np.abs(weights).sum()
        scores: NDArray[np.float64] = np.round(np.clip(shares @ towards, 0.0, 1.0), _SCORE_DECIMALS)
        return scores


def _cosines(rows: Vector, columns: Vector) -> NDArray[np.float64]:
    return np.clip((rows @ columns).astype(np.float64), -1.0, 1.0)
