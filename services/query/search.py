"""One search from the parts of a query to complete results: embed, candidates, segments, rank, fetch."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

import numpy as np
from prometheus_client import Histogram

from services.common.errors import DeadlineExceeded, NotFound, Unavailable
from services.common.records import CollectionRecord
from services.common.telemetry import trace_id
from services.common.vectors import Generation, VectorStore, carries_any, join_filters
from services.query.calibration import Calibrations
from services.query.candidates import MOST_TAGGED, CandidateSearch, Gathered, bare
from services.query.collections import Collections
from services.query.concurrency import both
from services.query.degrading import (
    INDEX_MISSING,
    SegmentsLost,
    can_do_without_segments,
    in_good_time,
    whole_only,
)
from services.query.domain import Mode, SearchQuery
from services.query.embedding import PartEmbedder
from services.query.order import Found, Ranking
from services.query.paging import MAX_DEPTH, image_digest, write_token
from services.query.planning import MadeSearch, SearchPlanner
from services.query.ranking import PartVectors
from services.query.reading import reading
from services.query.results import FoundImage, ResultReader
from services.query.tagging import PartTagger, needs_vectors

__all__ = ["Answer", "Plan", "Search"]

# A list of titles is at least so long, so that ranks deeper than a page count too.
_LEAST_TITLES: Final = 100

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
    generation: Generation
    calibrated: bool = False
    searches: list[MadeSearch] = field(default_factory=list)
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
        *,
        collections: Collections,
        embedder: PartEmbedder,
        tagger: PartTagger,
        vectors: VectorStore,
        reader: ResultReader,
        calibrations: Calibrations,
    ) -> None:
        """Ask these."""
        self._collections = collections
        self._embedder = embedder
        self._tagger = tagger
        self._vectors = vectors
        self._reader = reader
        self._calibrations = calibrations
        self._planner = SearchPlanner(vectors, collections)
        self._candidates = CandidateSearch(vectors)

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
            if exc.reason != INDEX_MISSING:
                raise
        except SegmentsLost as lost:
            if lost.cause.reason != INDEX_MISSING:
                return await self._without_segments(query, lost)
        # The collection was deleted, made anew or moved to another index since its record was read.
        self._collections.forget(query.collection)
        try:
            return await self._run(query)
        except SegmentsLost as lost:
            return await self._without_segments(query, lost)

    async def _without_segments(self, query: SearchQuery, lost: SegmentsLost) -> Answer:
        """The answer of whole images, where that is one; otherwise why there is none."""
        if can_do_without_segments(query):
            try:
                return await self._run(whole_only(query), f"segments: {lost.cause.message}")
            except SegmentsLost:  # of a part that is a segment itself
                pass
        raise lost.cause from lost

    async def _run(self, query: SearchQuery, *without: str) -> Answer:
        collection = await self._collections.get(query.collection)
        generation = Generation.of(collection)
        calibration = self._calibrations.of(collection.fingerprint)
        plan = Plan(
            reading(query.parts, query.relations, query.title_text),
            generation,
            calibrated=calibration.measured,
            degraded=list(without),
            trace_id=trace_id(),
        )
        if self._collections.is_stale(query.collection):
            plan.degraded.append("collection: the object store does not answer; it is taken as it was known last")
        with plan.stage("embed"):
            parts = await self._embed(query, collection, plan)
        found = await self._find(query, generation, parts, plan)
        plan.candidates = len(found.gathered.candidates.ids)
        _CANDIDATES.observe(plan.candidates)
        with plan.stage("rank"):
            ranking = await asyncio.to_thread(Ranking, query, parts, found, calibration)
        with plan.stage("fetch"):
            results, more = await self._page(query, generation, ranking, plan)
        return Answer(tuple(results), _next_token(query, results) if more else "", plan)

    async def _find(
        self, query: SearchQuery, generation: Generation, parts: tuple[PartVectors, ...], plan: Plan
    ) -> Found:
        """Candidates with what they are ranked by."""
        # One more than the page holds tells whether there is another page.
        needed = len(query.shown) + len(query.named_images) + query.top_k + 1
        with plan.stage("candidates"):
            index_plan = await self._planner.plan(query, generation, parts)
            plan.searches = index_plan.made()
            selectivity = index_plan.selectivity(query.mode)
            if selectivity is None:
                plan.degraded.append("filter_selectivity: counting what the filter passes takes too long")
            plan.filter_selectivity = selectivity or 0.0
            if query.mode is Mode.TAGS:
                return Found(await self._by_tags(query, generation, parts, plan))
            if not parts:
                by_title = await self._titles(query, generation, needed)
                return Found(await self._candidates.named(query, generation, list(by_title)), by_title)
            ids, by_title = await both(
                self._candidates.find(query, index_plan, parts, needed), self._titles(query, generation, needed)
            )
        with plan.stage("segments"):
            names = list(dict.fromkeys([*ids, *by_title]))
            return Found(await self._candidates.bring(query, generation, names), by_title)

    async def _embed(self, query: SearchQuery, collection: CollectionRecord, plan: Plan) -> tuple[PartVectors, ...]:
        """The parts' vectors and, where tags count, their tags."""
        by_tags = query.mode is Mode.TAGS
        wanted = [part for part in query.parts if not by_tags or needs_vectors(part)]
        embedded = await self._embedder.embed(
            wanted,
            collection,
            query.params.consistency,
            with_segments=query.segment_weight > 0 or query.tag_weight > 0,
            lane=query.lane,
        )
        plan.degraded.extend(embedded.degraded)
        made = iter(embedded.parts)
        nothing = np.zeros(collection.dimension, dtype=np.float32)
        vectors = tuple(
            next(made) if not by_tags or needs_vectors(part) else PartVectors.single(part.weight, nothing)
            for part in query.parts
        )
        if query.tag_weight <= 0:
            return vectors
        tagged, missing = await self._tagger.tagged(query.parts, vectors, collection, required=by_tags, lane=query.lane)
        plan.degraded.extend(missing)
        return tagged

    async def _by_tags(
        self, query: SearchQuery, generation: Generation, parts: tuple[PartVectors, ...], plan: Plan
    ) -> Gathered:
        names = list(dict.fromkeys(name for part in parts if part.weight > 0 for name in part.tags))
        plan.degraded += [
            f"parts[{asked.index}]: has no tags"
            for asked, part in zip(query.parts, parts, strict=True)
            if not part.tags
        ]
        if parts and not names:
            return bare([], generation, ())
        where = join_filters(carries_any(names) if names else "", query.image_where)
        gathered = await self._candidates.tagged(query, generation, where)
        if len(gathered.candidates.ids) == MOST_TAGGED:
            plan.degraded.append(f"tags: more than {MOST_TAGGED:,} images carry them; the first ones by id are ranked")
        return gathered

    async def _titles(self, query: SearchQuery, generation: Generation, needed: int) -> dict[str, float]:
        """Images whose title or description has the words, with their BM25 scores, best first."""
        if not query.title_text:
            return {}
        hits = await self._vectors.search_titles(
            generation,
            query.title_text,
            limit=max(needed, _LEAST_TITLES),
            where=query.image_where,
            consistency=query.params.consistency,
        )
        return {hit.id: hit.score for hit in hits}

    async def _page(
        self, query: SearchQuery, generation: Generation, ranking: Ranking, plan: Plan
    ) -> tuple[list[FoundImage], bool]:
        """A page with records or, where the object store does not answer, with what the index knows of the images."""
        try:
            with in_good_time():
                return await self._full_page(query, ranking)
        except (Unavailable, DeadlineExceeded) as exc:
            plan.degraded.append(f"records, and with them titles, sources and masks: {exc.message}")
        shown, left = ranking.order[: query.top_k], ranking.order[query.top_k :]
        ranked = [ranking.ranked(index) for index in shown]
        rows = await self._vectors.get_images(
            generation, [image.id for image in ranked], consistency=query.params.consistency
        )
        addressed = [
            await self._reader.of_row(query.collection, image, rows[image.id]) for image in ranked if image.id in rows
        ]
        return addressed, bool(left)

    async def _full_page(self, query: SearchQuery, ranking: Ranking) -> tuple[list[FoundImage], bool]:
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


def _next_token(query: SearchQuery, results: list[FoundImage]) -> str:
    """Where the next page begins: behind all that was shown, and what was folded into it."""
    names = [name for found in results for name in (found.record.id, *found.duplicates)]
    shown = query.shown | {image_digest(name) for name in names}
    return write_token(query.digest, shown) if len(shown) < MAX_DEPTH else ""
