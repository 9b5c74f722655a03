"""Which images a query ranks: found by whole vectors, by segments, or both, and brought with their vectors."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

import numpy as np

from services.common.domain import Vector
from services.common.vectors import FoundSegment, Generation, QueryKind, VectorStore
from services.query.concurrency import both, together
from services.query.degrading import needs_segments
from services.query.domain import Mode, SearchQuery
from services.query.planning import IndexPlan
from services.query.position import as_array
from services.query.ranking import Candidates, PartVectors, interleave, salience

__all__ = ["MOST_TAGGED", "CandidateSearch", "Gathered", "bare"]

MOST_TAGGED: Final = 10_000
"""Images that a search by tags alone ranks."""

# How many each list is asked for: a multiple of what is needed, since images that two lists put in the middle may
# come first together; but no less and, as long as that is enough, no more than this.
_DEPTH: Final = 5
_LEAST: Final = 100
_MOST: Final = 400
# What engines give at most in one answer.
_MOST_HITS: Final = 16_384
# Segments of query pictures that look for candidates by themselves, over all parts; all of them count in the ranking.
_SEGMENT_VECTORS: Final = 32
# How many segments of one image are expected among the hits, where no whole vectors bring other images.
_HITS_PER_IMAGE: Final = 2


@dataclass(frozen=True, slots=True)
class Gathered:
    """Candidates, and what belongs to them.

    Attributes:
        candidates: What is ranked.
        segments: What is stored of each of their segments, in the same order.
        vectors: Their whole vectors, whether or not they count in the ranking, shape [n, d]; None: not needed.
    """

    candidates: Candidates
    segments: tuple[FoundSegment, ...]
    vectors: Vector | None


class CandidateSearch:
    """Finds candidates and brings their vectors. Safe for concurrent use."""

    def __init__(self, vectors: VectorStore) -> None:
        """Search in `vectors`."""
        self._vectors = vectors

    async def find(self, query: SearchQuery, plan: IndexPlan, parts: Sequence[PartVectors], needed: int) -> list[str]:
        """Names of at least `needed` images, if so many pass the filter: the lists' firsts, seconds and so on.

        Negative parts bring no candidates by themselves.
        """
        wanted = max(needed, min(max(_DEPTH * needed, _LEAST), _MOST))
        searches = []
        if query.mode is not Mode.SEGMENT:
            searches.append(self._by_whole(query, plan, parts, wanted))
        if query.segment_weight > 0:
            searches.append(self._by_segments(query, plan, parts, wanted))
        found = await together(searches)
        return interleave(list(chain.from_iterable(found)), max(_MOST, wanted))

    async def bring(self, query: SearchQuery, generation: Generation, ids: Sequence[str]) -> Gathered:
        """The candidates that are still there, with the vectors that count."""
        (images, segments), tags = await both(
            both(self._images(query, generation, ids), self._segments(query, generation, ids)),
            self._tags(query, generation, ids),
        )
        needed: Container[str] = segments if query.mode is Mode.SEGMENT else images
        kept = [image_id for image_id in ids if image_id in needed and (not images or image_id in images)]
        found = [segment for image_id in kept for segment in segments.get(image_id, ())]
        owners = [at for at, image_id in enumerate(kept) for _ in segments.get(image_id, ())]
        vectors = _stacked([images[image_id] for image_id in kept], generation) if images else None
        counts = query.mode is not Mode.SEGMENT
        candidates = Candidates(
            ids=tuple(kept),
            whole=(_stacked([], generation) if vectors is None else vectors) if counts else None,
            segments=_stacked([segment.vector for segment in found], generation),
            owners=np.array(owners, dtype=np.intp),
            boxes=as_array([segment.box for segment in found]),
            counts=salience(np.array([segment.area for segment in found], dtype=np.float64)),
            tags=tuple(tags.get(image_id, {}) for image_id in kept) if query.tag_weight > 0 else None,
        )
        return Gathered(candidates, tuple(found), vectors)

    async def named(self, query: SearchQuery, generation: Generation, ids: Sequence[str]) -> Gathered:
        """Candidates found by their titles alone; with whole vectors only where results are compared."""
        if not query.compares_results:
            return bare(ids, generation)
        images = await self._images(query, generation, ids)
        kept = [image_id for image_id in ids if image_id in images]
        vectors = _stacked([images[image_id] for image_id in kept], generation)
        return replace(bare(kept, generation), vectors=vectors)

    async def tagged(self, query: SearchQuery, generation: Generation, where: str) -> Gathered:
        """The first images by id that pass `where`, with their tags and no vectors; at most MOST_TAGGED."""
        rows = await self._vectors.list_image_tags(
            generation, where=where, limit=MOST_TAGGED, consistency=query.params.consistency
        )
        ids = [image_id for image_id, _ in rows]
        tags = await self._tags(query, generation, ids)
        return bare(ids, generation, tuple(tags.get(image_id, {}) for image_id in ids))

    async def _by_whole(
        self, query: SearchQuery, plan: IndexPlan, parts: Sequence[PartVectors], wanted: int
    ) -> list[list[str]]:
        queries = [(_kind(part), part.vector) for part in parts if part.weight > 0]
        if len(parts) > 1:
            # What lies best to all parts together, negative ones too, may be in the middle of each part's own list.
            mixed = np.sum([part.weight * part.vector.astype(np.float64) for part in parts], axis=0)
            length = float(np.linalg.norm(mixed))
            if length > 0:
                # A mixture lies apart from the images where texts have a share in it.
                kind = QueryKind.TEXT if any(kind is QueryKind.TEXT for kind, _ in queries) else QueryKind.IMAGE
                queries.append((kind, (mixed / length).astype(np.float32)))

        async def search(kind: QueryKind) -> list[list[str]]:
            rows = np.stack([vector for its_kind, vector in queries if its_kind is kind])
            params = plan.params("images", kind)
            hits = await self._vectors.search_images(
                plan.generation, rows, limit=wanted, where=query.image_where, params=params
            )
            return [[hit.id for hit in found] for found in hits]

        return list(chain.from_iterable(await together(map(search, _kinds(kind for kind, _ in queries)))))

    async def _by_segments(
        self, query: SearchQuery, plan: IndexPlan, parts: Sequence[PartVectors], wanted: int
    ) -> list[list[str]]:
        positive = [part for part in parts if part.weight > 0]
        each = max(1, _SEGMENT_VECTORS // len(positive))

        async def search(kind: QueryKind) -> list[list[str]]:
            rows = np.concatenate([_segment_queries(part, each) for part in positive if _kind(part) is kind])
            return await self._segment_lists(query, plan, kind, rows, wanted)

        return list(chain.from_iterable(await together(map(search, _kinds(map(_kind, positive))))))

    async def _segment_lists(
        self, query: SearchQuery, plan: IndexPlan, kind: QueryKind, rows: Vector, wanted: int
    ) -> list[list[str]]:
        limit = min(_HITS_PER_IMAGE * wanted if query.mode is Mode.SEGMENT else wanted, _MOST_HITS)
        params = plan.params("segments", kind)
        while True:
            with needs_segments():
                hits = await self._vectors.search_segments(
                    plan.generation, rows, limit=limit, where=query.segment_where, params=params
                )
            lists = [list(dict.fromkeys(hit.image_id for hit in found)) for found in hits]
            # A few images may fill a list with their many segments; in HYBRID the whole vectors bring enough others.
            short = any(len(found) == limit and len(images) < wanted for found, images in zip(hits, lists, strict=True))
            if query.mode is not Mode.SEGMENT or not short or limit == _MOST_HITS:
                return lists
            limit = min(4 * limit, _MOST_HITS)

    async def _tags(
        self, query: SearchQuery, generation: Generation, ids: Sequence[str]
    ) -> Mapping[str, Mapping[str, float]]:
        if query.tag_weight == 0:
            return {}
        return await self._vectors.get_image_tags(generation, ids, consistency=query.params.consistency)

    async def _images(self, query: SearchQuery, generation: Generation, ids: Sequence[str]) -> dict[str, Vector]:
        if query.mode is Mode.SEGMENT and not query.compares_results:
            return {}
        return await self._vectors.get_image_vectors(generation, ids, consistency=query.params.consistency)

    async def _segments(
        self, query: SearchQuery, generation: Generation, ids: Sequence[str]
    ) -> dict[str, list[FoundSegment]]:
        """Segments that count. In SEGMENT mode the filter speaks of them; in HYBRID of their images alone."""
        if query.segment_weight == 0:
            return {}
        where = query.segment_where if query.mode is Mode.SEGMENT else ""
        with needs_segments():
            return await self._vectors.get_segment_vectors(
                generation, ids, where=where, consistency=query.params.consistency
            )


def _stacked(vectors: Sequence[Vector], generation: Generation) -> Vector:
    return np.stack(vectors) if vectors else np.zeros((0, generation.dimension), dtype=np.float32)


def bare(ids: Sequence[str], generation: Generation, tags: tuple[Mapping[str, float], ...] | None = None) -> Gathered:
    """Candidates without vectors: found by tags or title alone."""
    nothing = np.zeros((0, generation.dimension), dtype=np.float32)
    candidates = Candidates(
        ids=tuple(ids),
        whole=None,
        segments=nothing,
        owners=np.zeros(0, dtype=np.intp),
        counts=np.zeros(0),
        boxes=as_array([]),
        tags=tags,
    )
    return Gathered(candidates, (), None)


def _kind(part: PartVectors) -> QueryKind:
    return QueryKind.TEXT if part.is_text else QueryKind.IMAGE


def _kinds(kinds: Iterable[QueryKind]) -> list[QueryKind]:
    return sorted(set(kinds), key=lambda kind: kind.value)


def _segment_queries(part: PartVectors, most: int) -> Vector:
    """What looks for segments: those of its own that count most, and a picture as one thing."""
    own = part.segments[np.argsort(-part.counts, kind="stable")[:most]]
    return np.concatenate([part.vector[np.newaxis], own[: max(1, most - 1)]]) if part.is_picture else own
