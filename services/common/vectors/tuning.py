"""How much of an index has to be searched for which recall: measured on the index, by queries like those to come."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.common.records import IndexSpec, IndexType, RecallPoint, TuningRecord
from services.common.vectors.index import index_nlist, max_candidates
from services.common.vectors.planning import Of
from services.common.vectors.rows import Consistency, Generation, SearchParams
from services.common.vectors.store import VectorStore

__all__ = ["MIN_TUNED_ROWS", "SAMPLE", "measure"]

SAMPLE: Final = 200
"""Most queries of each kind that are made; more are not needed for two digits of recall."""
MIN_TUNED_ROWS: Final = 2_000
"""Fewer rows are all compared, so there is nothing to choose."""
_K: Final = 10
_BATCH: Final = 50
# Similarities nearer than this are the same, whichever comes first.
_TIE: Final = 1e-5
# More is not searched for the sake of so little.
_ENOUGH: Final = 0.999
_FEWEST_LISTS: Final = 8
_EFS: Final = (16, 32, 64, 128, 256, 512, 1_024, 2_048)
_CANDIDATES: Final = (100, 200, 500, 1_000, 2_000, 5_000, 10_000, 16_384)

_Search = Callable[[NDArray[np.float32], SearchParams], Awaitable[list[list[float]]]]


@dataclass(frozen=True, slots=True)
class _Target:
    of: Of
    rows: int
    search: _Search


async def measure(
    store: VectorStore,
    generation: Generation,
    image_queries: NDArray[np.float32],
    text_queries: NDArray[np.float32],
    *,
    settle_s: float = 120.0,
    limit_s: float = 120.0,
) -> TuningRecord:
    """Recall@10 against exact search, by how much is searched, for images and segments, image and text queries.

    The same queries on the same rows give the same record. A table is empty where there are fewer than 2,000 rows, no
    such queries, where the index did not settle in time, or the time ran out: searches are then planned by what is
    common.

    Args:
        store: Where the generation is.
        generation: With the nlist that it was built with.
        image_queries: Unit vectors [n, d] such as people search by: of images or parts of them. The first 200 are used.
        text_queries: Unit vectors [m, d] of texts. The first 200 are used.
        settle_s: Longest wait for the index to be in force, in seconds.
        limit_s: Longest time for the searches, in seconds.
    """
    rows = await store.count_images(generation), await store.count_segments(generation)
    record = TuningRecord(
        generation=generation.number,
        image_rows=rows[0],
        segment_rows=rows[1],
        measured_at_ms=time.time_ns() // 1_000_000,
    )
    if generation.index.type is IndexType.FLAT or max(rows) < MIN_TUNED_ROWS:
        return record
    if not await store.settle(generation, limit_s=settle_s):
        return record
    end = asyncio.get_running_loop().time() + limit_s

    async def images(queries: NDArray[np.float32], params: SearchParams) -> list[list[float]]:
        found = await store.search_images(generation, queries, limit=_K, params=params)
        return [[hit.similarity for hit in hits] for hits in found]

    async def segments(queries: NDArray[np.float32], params: SearchParams) -> list[list[float]]:
        found = await store.search_segments(generation, queries, limit=_K, params=params)
        return [[hit.similarity for hit in hits] for hits in found]

    tables: dict[str, tuple[RecallPoint, ...]] = {}
    for target in (_Target("images", rows[0], images), _Target("segments", rows[1], segments)):
        for kind, queries in (("image", image_queries), ("text", text_queries)):
            if target.rows >= MIN_TUNED_ROWS and len(queries):
                steps = _steps(generation.index, target.rows)
                tables[f"{target.of}_by_{kind}"] = await _table(target.search, queries[:SAMPLE], steps, end)
    return record.model_copy(update=tables)


def _steps(spec: IndexSpec, rows: int) -> list[int]:
    """What is tried, rising."""
    match spec.type:
        case IndexType.IVF_FLAT:
            nlist = index_nlist(spec)
            powers = (_FEWEST_LISTS << step for step in range(nlist.bit_length()))
            return [*(nprobe for nprobe in powers if nprobe < nlist), nlist]
        case IndexType.HNSW:
            return list(_EFS)
        case _:
            most = max_candidates(rows)
            return [*(count for count in _CANDIDATES if count < most), most]


async def _table(
    search: _Search, queries: NDArray[np.float32], steps: Sequence[int], end: float
) -> tuple[RecallPoint, ...]:
    """Recall for each step, up to the one where next to nothing is missed; empty where the time ran out."""
    truth = await _similarities(search, queries, SearchParams(exact=True, consistency=Consistency.STRONG))
    points = []
    for step in steps:
        if asyncio.get_running_loop().time() >= end:
            return ()
        found = await _similarities(search, queries, SearchParams(nprobe=step, consistency=Consistency.STRONG))
        points.append(RecallPoint(nprobe=step, recall=round(_recall(truth, found), 4)))
        if points[-1].recall >= _ENOUGH:
            break
    return tuple(points)


async def _similarities(search: _Search, queries: NDArray[np.float32], params: SearchParams) -> list[list[float]]:
    found: list[list[float]] = []
    for start in range(0, len(queries), _BATCH):
        found += await search(queries[start : start + _BATCH], params)
    return found


def _recall(truth: Sequence[Sequence[float]], found: Sequence[Sequence[float]]) -> float:
    """Share of the exact results that were found; of rows that are equally similar, any is right."""
    shares = [
        sum(similarity >= exact[-1] - _TIE for similarity in got) / len(exact)
        for exact, got in zip(truth, found, strict=True)
        if exact
    ]
    return min(1.0, float(np.mean(shares))) if shares else 1.0
