"""From vectors to scores. Pure numpy: no input or output, no state.

For every part of the query a candidate has up to three raw values: the cosine of its whole vector with the part's, the
agreement of its segments with the part's, and the share of the part's tags that it carries. Each is calibrated to the
log odds of a match; their odds are fused into the part's fit, and the parts' fits into the score.
docs/decisions/0004-ranking.md has the formulas and why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.common.domain import Vector
from services.query.calibration import Calibration, Comparison, probability
from services.query.position import Layout, Wishes

__all__ = [
    "NO_WISHES",
    "Candidates",
    "Fusion",
    "Match",
    "PartScore",
    "PartVectors",
    "Scores",
    "interleave",
    "salience",
]

Floats = NDArray[np.float64]

# How many of a query picture's own segments, those that count most, show their match.
_SHOWN_SEGMENTS: Final = 3

NO_WISHES = Wishes((), (), (), 0.0)
"""Of a query that does not care where things are."""
# The same vectors' cosine differs behind this place with what it is computed beside; such cosines are equal.
_COSINE_DECIMALS: Final = 6
_SCORE_DECIMALS: Final = 10
# The area of one thing by itself: no background.
_SMALL: Final = 0.01


@dataclass(frozen=True, slots=True)
class PartVectors:
    """A part of the query as vectors.

    Attributes:
        weight: Finite; negative: away from it.
        vector: Unit-length, shape [d]: compared with whole images.
        segments: Unit-length rows, shape [s, d], s >= 1: compared with segments.
        counts: What each of `segments` counts, > 0, shape [s]; their sum is 1.
        areas: Share of its picture that each of `segments` covers, in (0, 1]; small where it is not known, shape [s].
        is_picture: Whether `segments` are what was found in a picture, so that both ways of matching count.
        is_text: Whether the vectors are those of words.
        tags: Words for the part with their confidence, and how rare each is, > 0.
    """

    weight: float
    vector: Vector
    segments: Vector
    counts: Floats
    areas: Floats
    is_picture: bool = False
    is_text: bool = False
    tags: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def single(cls, weight: float, vector: Vector, *, is_text: bool = False) -> "PartVectors":
        """A part that is one thing: a text, a region, a vector."""
        return cls(weight, vector, vector[np.newaxis], np.ones(1), np.full(1, _SMALL), is_text=is_text)

    @classmethod
    def picture(cls, weight: float, vector: Vector, segments: Sequence[tuple[Vector, float]]) -> "PartVectors":
        """A whole picture, with the (vector, area) of each of its segments; without any it is its own only one."""
        if not segments:
            return cls.single(weight, vector)
        areas = np.array([area for _, area in segments], dtype=np.float64)
        counts = salience(areas)
        rows = np.stack([row for row, _ in segments])
        return cls(weight, vector, rows, counts / counts.sum(), areas, is_picture=True)

    @property
    def whole_kind(self) -> Comparison:
        """What comparing it with whole images is."""
        return Comparison.TEXT_WHOLE if self.is_text else Comparison.IMAGE_WHOLE

    @property
    def segment_kind(self) -> Comparison:
        """What comparing one vector of it with one segment is."""
        return Comparison.TEXT_SEGMENT if self.is_text else Comparison.IMAGE_SEGMENT


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
        tags: Each image's tags with their confidence; None where tags do not count.
    """

    ids: tuple[str, ...]
    whole: Vector | None
    segments: Vector
    owners: NDArray[np.intp]
    counts: Floats
    boxes: Floats
    tags: tuple[Mapping[str, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class Fusion:
    """How comparisons become a part's fit; the defaults were chosen by `benchmarks.tune_ranking`.

    Attributes:
        whole: What whole-image similarity counts, >= 0.
        segment: What segment similarity counts, >= 0.
        tag: What tag agreement counts, >= 0; not all three are 0.
        thing: What a picture as one thing counts beside its segments, which count 1.
        sharpness: Exponent of the power mean of odds: 1 would be the mean, infinity the greater one.
    """

    whole: float = 0.15
    segment: float = 0.85
    tag: float = 0.1
    thing: float = 0.7
    sharpness: float = 1.0


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


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of comparison: raw values and log odds [parts, n], and its share in each candidate's fit [parts, n]."""

    name: str
    raw: Floats
    log_odds: Floats
    share: Floats


def salience(areas: Floats) -> Floats:
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
    alone; where only segments count it is no result. A part without tags is judged without them, and where only tags
    count it is left out.
    """

    def __init__(
        self,
        parts: Sequence[PartVectors],
        candidates: Candidates,
        fusion: Fusion,
        calibration: Calibration,
        wishes: Wishes = NO_WISHES,
    ) -> None:
        """Compare every part with every candidate, and where they stand with what is wished."""
        self._parts = parts
        self._candidates = candidates
        self._calibration = calibration
        self._fusion = fusion
        n = len(candidates.ids)
        self._has_segments = np.bincount(candidates.owners, minlength=n) > 0
        self._starts = np.searchsorted(candidates.owners, np.arange(n))
        # Which pictures answer as one thing rather than by their segments, shape [parts, n].
        self._as_thing = np.zeros((len(parts), n), dtype=np.bool_)
        self._kinds = self._compare()
        total = np.sum([kind.share for kind in self._kinds], axis=0)
        # What can be compared with no candidate, such as a picture without tags where only tags count, says nothing.
        heard = (total > 0).any(axis=1)
        self._weights = np.array([part.weight for part in parts], dtype=np.float64) * heard
        self._judged = (total[heard] > 0).all(axis=0) & bool((self._weights > 0).any())
        self.scores = self._fuse(np.where(total > 0, total, 1.0))
        self._wished = wishes.weight if wishes.any else 0.0
        self._positions = np.zeros(n)
        if self._wished:
            self._positions = self._position_agreement(wishes)
            mixed = (1 - self._wished) * self.scores + self._wished * self._positions
            self.scores = np.round(mixed, _SCORE_DECIMALS)

    def order(self, min_score: float = 0.0) -> list[int]:
        """Indices of candidates with at least `min_score`, best first; ties by id."""
        # As callers see them: a score sent back as `min_score` passes its own result.
        passing = np.flatnonzero(self._judged & (self.scores.astype(np.float32) >= np.float32(min_score)))
        return sorted(passing.tolist(), key=lambda i: (-self.scores[i], self._candidates.ids[i]))

    def raw(self, part: int, kind: str) -> Floats:
        """A part's raw values of one kind of comparison (whole, segment or tag) with every candidate, shape [n]."""
        values: Floats = next(found.raw for found in self._kinds if found.name == kind)[part]
        return values

    def explain(self, candidate: int) -> list[PartScore]:
        """How the candidate's score came about.

        The rows of one part, with shares s (their weights over the part's) and odds o = calibrated / (1 - calibrated),
        make the odds of its fit: their sum of s * o. The log odds of the score are the mean of those of the
        positive parts' fits, by weight; each negative part multiplies the score by (1 - fit)^|weight|. Where positions
        are wished for, theirs is a row without a part, with its share of the whole score as weight.
        """
        rows = []
        total = np.sum([kind.share for kind in self._kinds], axis=0)
        for index, part in enumerate(self._parts):
            for kind in self._kinds:
                share = kind.share[index, candidate]
                if share > 0:
                    raw, calibrated = kind.raw[index, candidate], probability(kind.log_odds[index, candidate])
                    weight = part.weight * share / total[index, candidate]
                    rows.append(PartScore(index, kind.name, float(raw), float(calibrated), float(weight)))
        if self._wished:
            agreement = float(self._positions[candidate])
            rows.append(PartScore(None, "position", agreement, agreement, self._wished))
        return rows

    def matches(self, candidate: int) -> list[Match]:
        """The candidate's segments that answer the positive parts, best first.

        One for a text, a region, a vector, or a picture that answers as one thing; for other pictures the matches of
        three of its segments.
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
            first = part.segments[np.argsort(-part.counts, kind="stable")[:_SHOWN_SEGMENTS]]
            best: dict[int, float] = {}
            for row in part.vector[np.newaxis] if self._as_thing[index, candidate] else first:
                cosines = _cosines(own, row)
                at = int(cosines.argmax())
                best[at] = max(best.get(at, -1.0), float(cosines[at]))
            found.extend(Match(index, int(start) + at, similarity) for at, similarity in best.items())
        return sorted(found, key=lambda match: (-match.similarity, match.part, match.row))

    def _compare(self) -> list[_Kind]:
        """All kinds of comparison that count, of every part with every candidate."""
        candidates, parts, fusion = self._candidates, self._parts, self._fusion
        shape = (len(parts), len(candidates.ids))
        kinds = []
        if candidates.whole is not None:
            raw = np.stack([_cosines(candidates.whole, part.vector) for part in parts])
            log_odds = np.stack(
                [self._calibration.log_odds(part.whole_kind, row) for part, row in zip(parts, raw, strict=True)]
            )
            kinds.append(_Kind("whole", raw, log_odds, np.full(shape, fusion.whole)))
        raw, log_odds = np.zeros(shape), np.zeros(shape)
        if len(candidates.segments):
            for at, part in enumerate(parts):
                raw[at], log_odds[at] = self._segment_agreement(at, part)
        share = np.where(self._has_segments, fusion.segment, 0.0) * np.ones(shape)
        kinds.append(_Kind("segment", raw, log_odds, share))
        if candidates.tags is not None:
            raw = np.array([[_shared(part.tags, tags) for tags in candidates.tags] for part in parts]).reshape(shape)
            share = np.array([fusion.tag if part.tags else 0.0 for part in parts])[:, np.newaxis] * np.ones(shape)
            kinds.append(_Kind("tag", raw, self._calibration.log_odds(Comparison.TAGS, raw), share))
        return kinds

    def _segment_agreement(self, at: int, part: PartVectors) -> tuple[Floats, Floats]:
        """Raw agreement and its log odds for each candidate, shape [n] each; 0 without segments."""
        has = self._has_segments
        raw, log_odds = np.zeros(len(has)), np.zeros(len(has))
        # reduceat takes each group up to the next start, so the starts of groups that are there are enough.
        starts = self._starts[has]
        if not part.is_picture:
            cosines = _cosines(self._candidates.segments, part.segments[0])
            odds = self._calibration.log_odds(part.segment_kind, cosines)
            if part.weight < 0:
                # A segment that is rather what is wanted is not what is unwanted.
                odds = odds - np.maximum(self._wanted() - odds, 0.0)
            raw[has], log_odds[has] = np.maximum.reduceat(cosines, starts), np.maximum.reduceat(odds, starts)
            return raw, log_odds
        by_segments = self._both_ways(part, starts)
        as_thing = np.maximum.reduceat(_cosines(self._candidates.segments, part.vector), starts)
        odds_segments = self._calibration.log_odds(Comparison.PICTURE_SEGMENTS, by_segments)
        odds_thing = self._calibration.log_odds(Comparison.PICTURE_THING, as_thing)
        thing = (odds_thing > odds_segments) & (self._fusion.thing > 0)
        self._as_thing[at, has] = thing
        raw[has] = np.where(thing, as_thing, by_segments)
        shares = np.array([1.0, self._fusion.thing])[:, np.newaxis] / (1.0 + self._fusion.thing)
        log_odds[has] = _power_mean(np.stack([odds_segments, odds_thing]), shares, self._fusion.sharpness)
        return raw, log_odds

    def _both_ways(self, part: PartVectors, starts: NDArray[np.intp]) -> Floats:
        """Mean of each of a picture's segments' best match in the candidate, and of each of the candidate's in it."""
        cosines = _cosines(self._candidates.segments, part.segments.T)  # [m, s]
        counts = self._candidates.counts
        found = np.maximum.reduceat(cosines, starts, axis=0) @ part.counts
        known = np.add.reduceat(cosines.max(axis=1) * counts, starts) / np.add.reduceat(counts, starts)
        return np.asarray((found + known) / 2, dtype=np.float64)

    def _wanted(self) -> Floats:
        """How far each segment is what a positive part looks for: its greatest log odds, shape [m]."""
        odds = [
            self._calibration.log_odds(
                part.segment_kind, _cosines(self._candidates.segments, part.segments.T).max(axis=1)
            )
            for part in self._parts
            if part.weight > 0
        ]
        wanted: Floats = np.max(odds, axis=0)
        return wanted

    def _position_agreement(self, wishes: Wishes) -> Floats:
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

    def _fuse(self, total: Floats) -> Floats:
        """Scores, shape [n]; `total` are the shares' sums [parts, n]."""
        odds = np.stack([kind.log_odds for kind in self._kinds])
        shares = np.stack([kind.share for kind in self._kinds]) / total
        fits = _power_mean(odds, shares, self._fusion.sharpness)
        towards, away = np.maximum(self._weights, 0.0), np.maximum(-self._weights, 0.0)
        wanted = probability((towards / (towards.sum() or 1.0)) @ fits)
        spared = np.prod((1.0 - probability(fits)) ** away[:, np.newaxis], axis=0)
        scores: Floats = np.round(wanted * spared, _SCORE_DECIMALS)
        return scores


def _power_mean(log_odds: Floats, shares: Floats, sharpness: float) -> Floats:
    """Log of the power mean of odds over the first axis; shares [k, ...] of which some may be 0."""
    with np.errstate(divide="ignore"):
        weighted = np.log(shares) + sharpness * log_odds
    mean: Floats = np.logaddexp.reduce(weighted, axis=0) / sharpness
    # Where no share is left there is nothing to judge by.
    judged: Floats = np.nan_to_num(mean, neginf=0.0)
    return judged


def _shared(wanted: Mapping[str, tuple[float, float]], carried: Mapping[str, float]) -> float:
    """Share of the wanted tags that are carried, in [0, 1], by rarity and the lesser confidence of both."""
    total = sum(confidence * rarity for confidence, rarity in wanted.values())
    there = sum(
        min(confidence, carried[name]) * rarity for name, (confidence, rarity) in wanted.items() if name in carried
    )
    return there / total if total > 0 else 0.0


def _cosines(rows: Vector, columns: Vector) -> Floats:
    products = (rows @ columns).astype(np.float64)
    return np.asarray(np.round(np.clip(products, -1.0, 1.0), _COSINE_DECIMALS), dtype=np.float64)
