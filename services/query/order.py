"""Candidates that may be shown, best first: scored, fused with titles, folded and varied."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.query.calibration import Calibration
from services.query.candidates import Gathered
from services.query.domain import SearchQuery
from services.query.paging import image_digest
from services.query.position import Wishes
from services.query.ranking import Fusion, PartScore, PartVectors, Scores
from services.query.results import Ranked
from services.query.variety import diversified, folded

__all__ = ["Found", "Ranking"]

# Reciprocal rank fusion (Cormack, Clarke and Buettcher, 2009) with its usual constant.
_RANK_OFFSET: Final = 60


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates, and the BM25 scores of those whose title or description has the words asked for, best first."""

    gathered: Gathered
    titles: Mapping[str, float] = field(default_factory=dict)


class Ranking:
    """The order of a query's candidates."""

    def __init__(
        self, query: SearchQuery, parts: tuple[PartVectors, ...], found: Found, calibration: Calibration
    ) -> None:
        """Rank them; nothing waits for anything here, but it takes time: not for the event loop."""
        self._query = query
        self._found = found
        self._gathered = gathered = found.gathered
        self._ids = gathered.candidates.ids
        self._by_parts: Scores | None = None
        self._title_ranks: dict[int, int] = {}
        # Without parts all are as good as each other.
        self._scores = np.ones(len(self._ids))
        passing = sorted(range(len(self._ids)), key=self._ids.__getitem__)
        if parts:
            wishes = Wishes(
                tuple(part.placement for part in query.parts),
                tuple(part.count for part in query.parts),
                query.relations,
                query.position_weight,
            )
            fusion = Fusion(query.whole_weight, query.segment_weight, query.tag_weight)
            self._by_parts = Scores(parts, gathered.candidates, fusion, calibration, wishes)
            self._scores = self._by_parts.scores
            passing = self._by_parts.order(query.min_score)
        if query.title_text:
            passing = self._fused(passing if parts else None)
        passing = [index for index in passing if self._ids[index] not in query.named_images]
        shown = [index for index in passing if image_digest(self._ids[index]) in query.shown]
        known = set(shown)
        self.order = [index for index in passing if index not in known]
        self._duplicates: dict[int, list[int]] = {}
        if gathered.vectors is not None and query.fold_duplicates:
            self._duplicates = folded(self.order, gathered.vectors, shown)
            self.order = list(self._duplicates)
        if gathered.vectors is not None and query.diversity:
            self.order = diversified(self.order, self._scores, gathered.vectors, query.diversity, shown)

    def heirs(self, index: int) -> list[int]:
        """What takes the place of a result that is gone: the best of its near-duplicates, with the others under it."""
        alike = self._duplicates.get(index, [])
        if alike:
            self._duplicates[alike[0]] = alike[1:]
        return alike[:1]

    def ranked(self, index: int) -> Ranked:
        """One of them, with its matches."""
        matches = self._by_parts.matches(index) if self._by_parts else []
        return Ranked(
            id=self._ids[index],
            score=float(self._scores[index]),
            matches=tuple(
                (self._query.parts[match.part].index, self._gathered.segments[match.row], match.similarity)
                for match in matches
            ),
            score_parts=tuple(self._explained(index)) if self._query.explain else (),
            duplicates=tuple(self._ids[other] for other in self._duplicates.get(index, ())),
        )

    def _fused(self, by_parts: list[int] | None) -> list[int]:
        """The order by reciprocal ranks among the parts' results and the titles'; scores become those, in [0, 1]."""
        by_title = [at for at, image_id in enumerate(self._ids) if image_id in self._found.titles]
        by_title.sort(key=lambda at: (-self._found.titles[self._ids[at]], self._ids[at]))
        lists = [by_title] if by_parts is None else [by_parts, by_title]
        self._scores = np.zeros(len(self._ids))
        for ranked in lists:
            self._scores[ranked] += _reciprocal(np.arange(len(ranked))) / len(lists)
        self._title_ranks = {at: rank for rank, at in enumerate(by_title)}
        found = {at for ranked in lists for at in ranked}
        return sorted(found, key=lambda at: (-self._scores[at], self._ids[at]))

    def _explained(self, index: int) -> Iterator[PartScore]:
        """How a score came about, by the request's own parts."""
        for row in self._by_parts.explain(index) if self._by_parts else ():
            yield row if row.part is None else replace(row, part=self._query.parts[row.part].index)
        if (bm25 := self._found.titles.get(self._ids[index])) is not None:
            worth = float(_reciprocal(self._title_ranks[index]))
            yield PartScore(None, "title", bm25, worth, 1.0 / (2 if self._by_parts else 1))


def _reciprocal(rank: NDArray[np.int_] | int) -> NDArray[np.float64]:
    """What a rank is worth, in (0, 1]: 1 for the first, whose rank is 0."""
    return np.asarray((_RANK_OFFSET + 1) / (_RANK_OFFSET + 1 + np.asarray(rank)), dtype=np.float64)
