"""One search from the parts of a query to complete results: embed, candidates, segments, rank, fetch."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Final

from prometheus_client import Histogram

from services.common.deadline import call_deadline
from services.common.errors import NotFound, SaccadeError
from services.common.records import CollectionRecord
from services.common.telemetry import trace_id
from services.common.vectors import Generation, VectorStore
from services.query.candidates import CandidateSearch, Gathered
from services.query.collections import Collections
from services.query.concurrency import both
from services.query.domain import Mode, SearchQuery
from services.query.embedding import Embedded, PartEmbedder
from services.query.paging import MAX_DEPTH, image_digest, write_token
from services.query.position import Wishes
from services.query.ranking import Fusion, PartScore, Scores
from services.query.reading import reading
from services.query.results import FoundImage, Ranked, ResultReader
from services.query.variety import diversified, folded

__all__ = ["Answer", "Plan", "Search"]

# The vector store's reason where it does not have a collection's index.
_INDEX_MISSING: Final = "INDEX_MISSING"

_STAGE_SECONDS = Histogram(
    "saccade_query_stage_seconds",
    "Time that one stage of a search took.",
    ["stage"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_CANDIDATES = Histogram(
    "saccade_query_candidates",
    "Images ranked in a search.",
    buckets=(0, 1, 10, 25, 50, 100, 200, 400, 800, 1_600),
)


@dataclass(slots=True)
class Plan:
    """How a query was carried out; filled while it is. Timings are (stage, seconds), in order."""

    reading: str
    exact: bool = False
    nprobe: int = 0
    filter_selectivity: float = 1.0
    candidates: int = 0
    degraded: list[str] = field(default_factory=list)
    timings: list[tuple[str, float]] = field(default_factory=list)
    trace_id: str = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        started = perf_counter()
        try:
            yield
        finally:
            seconds = perf_counter() - started
            self.timings.append((name, seconds))
            _STAGE_SECONDS.labels(name).observe(seconds)


@dataclass(frozen=True, slots=True)
class Answer:
    """Results, best first; the next page's token, empty at the end; and how it was done."""

    results: tuple[FoundImage, ...]
    next_page_token: str
    plan: Plan


class Search:
    """Carries out searches. Safe for concurrent use; every wait ends with the call's deadline."""

    def __init__(
        self,
        collections: Collections,
        embedder: PartEmbedder,
        vectors: VectorStore,
        reader: ResultReader,
        *,
        count_patience_s: float,
    ) -> None:
        """Ask these; counting what a filter passes may take `count_patience_s`."""
        self._collections = collections
        self._embedder = embedder
        self._vectors = vectors
        self._reader = reader
        self._candidates = CandidateSearch(vectors)
        self._count_patience_s = count_patience_s

    async def run(self, query: SearchQuery) -> Answer:
        """Answer a query.

        Raises:
            NotFound: no such collection, stored image or segment.
            InvalidArgument: a picture or vector can not be used.
            FailedPrecondition: the embedder or the index does not fit the collection.
        """
        try:
            return await self._run(query)
        except NotFound as exc:
            if exc.reason != _INDEX_MISSING:
                raise
        # The collection was deleted, made anew or moved to another index since its record was read.
        self._collections.forget(query.collection)
        return await self._run(query)

    async def _run(self, query: SearchQuery) -> Answer:
        collection = await self._collections.get(query.collection)
        generation = Generation.of(collection)
        plan = Plan(
            reading(query.parts, query.relations),
            exact=query.params.exact,
            nprobe=self._vectors.nprobe(generation, query.params),
            trace_id=trace_id(),
        )
        with plan.stage("embed"):
            embedded = await self._embed(query, collection)
            plan.degraded.extend(embedded.degraded)
        # One more than the page holds tells whether there is another page.
        needed = len(query.shown) + len(query.named_images) + query.top_k + 1
        with plan.stage("candidates"):
            ids, plan.filter_selectivity = await both(
                self._candidates.find(query, generation, embedded.parts, needed),
                self._selectivity(query, generation, plan),
            )
        with plan.stage("segments"):
            gathered = await self._candidates.bring(query, generation, ids)
        plan.candidates = len(gathered.candidates.ids)
        _CANDIDATES.observe(plan.candidates)
        with plan.stage("rank"):
            ranking = await asyncio.to_thread(_Ranking, query, embedded, gathered)
        with plan.stage("fetch"):
            results, more = await self._page(query, ranking)
        return Answer(tuple(results), _next_token(query, results) if more else "", plan)

    async def _embed(self, query: SearchQuery, collection: CollectionRecord) -> Embedded:
        return await self._embedder.embed(
            query.parts, collection, query.params.consistency, with_segments=query.segment_weight > 0
        )

    async def _selectivity(self, query: SearchQuery, generation: Generation, plan: Plan) -> float:
        """Share of the images (in SEGMENT mode, of the segments) that the filter passes; 0 where it is not known."""
        by_segment = query.mode is Mode.SEGMENT
        where = query.segment_where if by_segment else query.image_where
        if not where:
            return 1.0
        kind = self._vectors.count_segments if by_segment else self._vectors.count_images
        count = partial(kind, generation, consistency=query.params.consistency)
        try:
            # A number for people is not worth a slow answer.
            with call_deadline(self._count_patience_s):
                passing, every = await both(count(where=where), count())
        except SaccadeError as exc:
            plan.degraded.append(f"filter_selectivity: {exc.message}")
            return 0.0
        # The two counts are not of one moment.
        return min(1.0, passing / every) if every else 1.0

    async def _page(self, query: SearchQuery, ranking: "_Ranking") -> tuple[list[FoundImage], bool]:
        """A full page if there are so many, and whether something is left; what is gone makes room for the next."""
        results: list[FoundImage] = []
        left = ranking.order
        while len(results) < query.top_k and left:
            count = query.top_k - len(results)
            chunk, left = left[:count], left[count:]
            found = await self._reader.read(query.collection, map(ranking.ranked, chunk))
            results += [image for image in found if image is not None]
            gone = [index for index, image in zip(chunk, found, strict=True) if image is None]
            # Before those that rank below them all: what was folded into something that is gone stands for itself.
            left = [heir for index in gone for heir in ranking.heirs(index)] + left
        return results, bool(left)


class _Ranking:
    """Candidates that may be shown, best first."""

    def __init__(self, query: SearchQuery, embedded: Embedded, gathered: Gathered) -> None:
        self._query = query
        self._gathered = gathered
        wishes = Wishes(
            tuple(part.placement for part in query.parts),
            tuple(part.count for part in query.parts),
            query.relations,
            query.position_weight,
        )
        fusion = Fusion(query.whole_weight, query.segment_weight)
        self._scores = Scores(embedded.parts, gathered.candidates, fusion, wishes)
        ids = gathered.candidates.ids
        passing = [index for index in self._scores.order(query.min_score) if ids[index] not in query.named_images]
        shown = [index for index in passing if image_digest(ids[index]) in query.shown]
        known = set(shown)
        self.order = [index for index in passing if index not in known]
        self._duplicates: dict[int, list[int]] = {}
        if gathered.vectors is not None and query.fold_duplicates:
            self._duplicates = folded(self.order, gathered.vectors, shown)
            self.order = list(self._duplicates)
        if gathered.vectors is not None and query.diversity:
            self.order = diversified(self.order, self._scores.scores, gathered.vectors, query.diversity, shown)

    def heirs(self, index: int) -> list[int]:
        """What takes the place of a result that is gone: the best of its near-duplicates, with the others under it."""
        alike = self._duplicates.get(index, [])
        if alike:
            self._duplicates[alike[0]] = alike[1:]
        return alike[:1]

    def ranked(self, index: int) -> Ranked:
        """One of them, with its matches."""
        return Ranked(
            id=self._gathered.candidates.ids[index],
            score=float(self._scores.scores[index]),
            matches=tuple(
                (self._query.parts[match.part].index, self._gathered.segments[match.row], match.similarity)
                for match in self._scores.matches(index)
            ),
            score_parts=tuple(self._explained(index)) if self._query.explain else (),
            duplicates=tuple(self._gathered.candidates.ids[other] for other in self._duplicates.get(index, ())),
        )

    def _explained(self, index: int) -> Iterator[PartScore]:
        """How a score came about, by the request's own parts."""
        for row in self._scores.explain(index):
            yield row if row.part is None else replace(row, part=self._query.parts[row.part].index)


def _next_token(query: SearchQuery, results: list[FoundImage]) -> str:
    """Where the next page begins: behind all that was shown, and what was folded into it."""
    names = [name for found in results for name in (found.record.id, *found.duplicates)]
    shown = query.shown | {image_digest(name) for name in names}
    return write_token(query.digest, shown) if len(shown) < MAX_DEPTH else ""
