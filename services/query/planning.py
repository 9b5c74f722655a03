"""How the index is searched for a query: for each kind of search the lists to look into, or all of them, and why."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from services.common.vectors import (
    Generation,
    Of,
    PlannedSearch,
    QueryKind,
    RowEstimate,
    SearchParams,
    VectorStore,
    plan_search,
)
from services.query.collections import Collections
from services.query.concurrency import both
from services.query.degrading import needs_segments
from services.query.domain import Mode, SearchQuery
from services.query.ranking import PartVectors

__all__ = ["IndexPlan", "MadeSearch", "SearchPlanner"]


@dataclass(frozen=True, slots=True)
class MadeSearch:
    """One search of the index, for people: what, how and why. `passing` None: not known."""

    what: str
    index: str
    exact: bool
    nprobe: int
    rows: int
    passing: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """How images and segments are searched for a query.

    Attributes:
        generation: Of the index.
        images: Rows of images, and how many of them the filter passes; None where they are not searched.
        segments: The same of segments.
        plans: (images or segments, kind of query) -> how.
        base: What all searches have in common.
    """

    generation: Generation
    images: RowEstimate | None
    segments: RowEstimate | None
    plans: dict[tuple[Of, QueryKind], PlannedSearch]
    base: SearchParams

    def params(self, of: Of, kind: QueryKind) -> SearchParams:
        """What to tell the index."""
        plan = self.plans[of, kind]
        return replace(self.base, nprobe=plan.nprobe, exact=plan.exact)

    def made(self) -> list[MadeSearch]:
        """All of them, images first."""
        found = []
        for (of, kind), plan in self.plans.items():
            estimate = self.images if of == "images" else self.segments
            rows, passing = (estimate.rows, estimate.passing) if estimate else (0, None)
            what = f"{of} by {kind.value}"
            index = self.generation.index.type.value
            found.append(
                MadeSearch(what, index, plan.exact, 0 if plan.exact else plan.nprobe, rows, passing, plan.reason)
            )
        return found

    def selectivity(self, mode: Mode) -> float | None:
        """Share of the images (in SEGMENT mode, of the segments) that the filter passes; None where it is not known."""
        estimate = self.segments if mode is Mode.SEGMENT else self.images
        if estimate is None or estimate.passing is None:
            return None
        # The two counts are not of one moment.
        return min(1.0, estimate.passing / estimate.rows) if estimate.rows else 1.0


class SearchPlanner:
    """Plans searches. Safe for concurrent use."""

    def __init__(self, vectors: VectorStore, collections: Collections) -> None:
        """Ask these."""
        self._vectors = vectors
        self._collections = collections

    async def plan(self, query: SearchQuery, generation: Generation, parts: Sequence[PartVectors]) -> IndexPlan:
        """How to search for these parts. What the filter passes is counted, or estimated where counting takes long."""
        images, segments = await both(
            self._estimate(query.mode is not Mode.SEGMENT, generation, query.image_where, "images"),
            self._estimate(query.segment_weight > 0, generation, query.segment_where, "segments"),
        )
        estimates: dict[Of, RowEstimate | None] = {"images": images, "segments": segments}
        tuning = await self._collections.tuning_of(generation)
        vectors = () if query.mode is Mode.TAGS else parts
        kinds = {QueryKind.TEXT if part.is_text else QueryKind.IMAGE for part in vectors if part.weight > 0}
        plans = {
            (of, kind): plan_search(
                generation.index,
                kind=kind,
                of=of,
                rows=estimate.rows,
                passing=estimate.passing,
                target_recall=query.target_recall or generation.index.target_recall,
                tuning=tuning,
                nprobe_asked=query.params.nprobe,
                exact_asked=query.params.exact,
            )
            for of, estimate in estimates.items()
            if estimate is not None
            for kind in sorted(kinds, key=lambda kind: kind.value)
        }
        return IndexPlan(generation, images, segments, plans, query.params)

    async def _estimate(self, searched: bool, generation: Generation, where: str, of: Of) -> RowEstimate | None:
        if not searched:
            return None
        with needs_segments() if of == "segments" else nullcontext():
            return await self._vectors.estimate(generation, where=where, of=of)
