"""The cases of benchmarks.recall: vectors, queries, filters, and how a case is measured."""

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from saccade.common.v1 import types_pb2
from services.common.records import IndexSpec, IndexType, TuningRecord
from services.common.vectors import (
    Consistency,
    FilterTarget,
    Generation,
    ImageRow,
    QueryKind,
    SearchParams,
    VectorStore,
    compile_filter,
    measure,
    nlist_for,
    plan_search,
)

__all__ = ["Case", "Gallery", "Report", "measure_ivf", "measure_lsh"]

DIMENSION: Final = 128
# The plane in which clusters lie: so few dimensions that they overlap.
LATENT: Final = 24
K: Final = 10
FILTERS: Final = {"all": 1.0, "50pct": 0.5, "10pct": 0.1, "1pct": 0.01, "0.1pct": 0.001}
TARGET_RECALL: Final = 0.95
_WRITTEN_AT_ONCE: Final = 500
# Building takes minutes where other programs need the processors too.
_SETTLE_S: Final = 3_600.0

Floats = NDArray[np.float32]


class Gallery:
    """Vectors of overlapping clusters, and queries of two kinds.

    Images lie in a cone, as those of CLIP do. Image queries lie near them. Texts lie in a cone of their own, so that a
    text's cosine with its nearest image is about 0.3: the modality gap.
    """

    def __init__(self, rows: int, seed: int = 7) -> None:
        """Draw `rows` vectors."""
        self._rng = np.random.default_rng([seed, rows])
        self._centers = self._rng.normal(size=(max(10, rows // 100), LATENT))
        self._project = self._rng.normal(size=(LATENT, DIMENSION)) / np.sqrt(DIMENSION)
        self._cones = self._rng.normal(size=(2, DIMENSION)) / np.sqrt(DIMENSION) * 4
        self._latent = self._drawn(rows)
        self.vectors = self._placed(self._latent, 0, 0.3)
        # What filters pass lies anywhere.
        self.ranks = self._rng.permutation(rows)

    def _drawn(self, count: int) -> NDArray[np.float64]:
        own = self._centers[self._rng.integers(0, len(self._centers), count)]
        return np.asarray(own + 0.7 * self._rng.normal(size=own.shape))

    def _placed(self, latent: NDArray[np.float64], cone: int, noise: float) -> Floats:
        around = self._rng.normal(size=(len(latent), DIMENSION)) / np.sqrt(DIMENSION) * noise * np.sqrt(LATENT)
        return _unit(latent @ self._project + self._cones[cone] + around)

    def queries(self, kind: QueryKind, count: int) -> Floats:
        """New unit vectors [count, 128] of things as those that are stored."""
        near = self._latent[self._rng.integers(0, len(self._latent), count)]
        moved = near + 0.3 * self._rng.normal(size=near.shape)
        if kind is QueryKind.TEXT:
            return self._placed(moved, 1, 0.6)
        return self._placed(moved, 0, 0.3)

    def nearest(self, query: Floats, share: float) -> set[str]:
        """Ids of the 10 most similar vectors among those that a filter passes."""
        passing = np.flatnonzero(self.ranks < passing_of(len(self.ranks), share))
        similarity = self.vectors[passing] @ query
        best = np.argsort(-similarity)[:K]
        return {_id(int(row)) for row in passing[best]}


def _unit(array: NDArray[np.float64]) -> Floats:
    return np.asarray(array / np.linalg.norm(array, axis=1, keepdims=True), dtype=np.float32)


def _id(row: int) -> str:
    return f"i{row:07d}"


def passing_of(rows: int, share: float) -> int:
    """Rows that a filter passes; never none."""
    return max(1, round(rows * share))


@dataclass(frozen=True, slots=True)
class Case:
    """One case; times in milliseconds."""

    rows: int
    nlist: int
    filter: str
    kind: str
    recall: float
    exact: bool
    nprobe: int
    reason: str
    p50_ms: float
    estimate_ms: float


@dataclass
class Report:
    """All cases."""

    cases: list[Case] = field(default_factory=list)
    lsh: list[Case] = field(default_factory=list)

    def figures(self) -> dict[str, float | int | str]:
        """By flat dotted keys."""
        figures: dict[str, float | int | str] = {"dimension": DIMENSION, "target_recall": TARGET_RECALL}
        for case in self.cases:
            key = f"cases.{case.rows}.{case.filter}.{case.kind}"
            figures[f"{key}.recall_at_10"] = round(case.recall, 4)
            figures[f"{key}.p50_ms"] = round(case.p50_ms, 2)
            figures[f"{key}.estimate_ms"] = round(case.estimate_ms, 2)
            figures[f"{key}.nprobe"] = 0 if case.exact else case.nprobe
            figures[f"{key}.reason"] = case.reason
        if self.cases:
            figures["min_recall_at_10"] = round(min(case.recall for case in self.cases), 4)
        for case in self.lsh:
            key = f"lsh.{case.rows}.{case.kind}"
            figures[f"{key}.recall_at_10"] = round(case.recall, 4)
            figures[f"{key}.compared_fraction"] = _compared(case)
            figures[f"{key}.p50_ms"] = round(case.p50_ms, 2)
        if self.lsh:
            figures["lsh.recall_at_10"] = round(min(case.recall for case in self.lsh), 4)
            figures["lsh.compared_fraction"] = max(_compared(case) for case in self.lsh)
        return figures


def _compared(case: Case) -> float:
    return round(1.0 if case.exact else case.nprobe / case.rows, 5)


async def measure_ivf(store: VectorStore, rows: int, queries: int, say: Callable[[str], Any]) -> list[Case]:
    """All filters and kinds of queries on an IVF_FLAT index."""
    made = Generation(f"ivf{rows}", 1, DIMENSION, "benchmark", IndexSpec(nlist=nlist_for(rows)))
    return await _measured(_Bench(store, made, Gallery(rows), queries), list(FILTERS), say)


async def measure_lsh(store: VectorStore, rows: int, queries: int, say: Callable[[str], Any]) -> list[Case]:
    """Both kinds of queries on an LSH index."""
    made = Generation(f"lsh{rows}", 1, DIMENSION, "benchmark", IndexSpec(type=IndexType.LSH))
    return await _measured(_Bench(store, made, Gallery(rows), queries), ["all"], say)


@dataclass(frozen=True, slots=True)
class _Bench:
    store: VectorStore
    made: Generation
    gallery: Gallery
    queries: int


async def _measured(bench: _Bench, names: list[str], say: Callable[[str], Any]) -> list[Case]:
    store, made, gallery = bench.store, bench.made, bench.gallery
    rows, started = len(gallery.vectors), time.perf_counter()
    await store.create_generation(made)
    await _fill(store, made, gallery)
    say(f"{made.index.type.value}: {rows:,} rows written in {time.perf_counter() - started:.0f} s")
    started = time.perf_counter()
    if not await store.settle(made, limit_s=_SETTLE_S):
        raise TimeoutError(f"the index of {rows} rows is not in force after {_SETTLE_S:g} s")
    say(f"index in force after {time.perf_counter() - started:.0f} s more")
    started = time.perf_counter()
    sample = [gallery.queries(kind, 200) for kind in (QueryKind.IMAGE, QueryKind.TEXT)]
    tuning = await measure(store, made, *sample)
    say(f"measured in {time.perf_counter() - started:.0f} s: {_told(tuning)}")
    cases = [await _case(bench, name, kind, tuning) for name in names for kind in (QueryKind.IMAGE, QueryKind.TEXT)]
    await store.drop_collection(made.collection)
    return cases


async def _fill(store: VectorStore, made: Generation, gallery: Gallery) -> None:
    def row(number: int) -> ImageRow:
        vector, rank = gallery.vectors[number], int(gallery.ranks[number])
        return ImageRow(_id(number), vector, {}, {"rank": rank}, rank, 480, number)

    for start in range(0, len(gallery.vectors), 4 * _WRITTEN_AT_ONCE):
        numbers = range(start, min(start + 4 * _WRITTEN_AT_ONCE, len(gallery.vectors)))
        parts = [list(map(row, numbers[at : at + _WRITTEN_AT_ONCE])) for at in range(0, len(numbers), _WRITTEN_AT_ONCE)]
        await asyncio.gather(*[store.upsert_images(made, part) for part in parts])


def _told(tuning: TuningRecord) -> str:
    tables = {"image": tuning.images_by_image, "text": tuning.images_by_text}
    return "; ".join(
        f"{kind} " + ", ".join(f"{point.nprobe}: {point.recall:.3f}" for point in table)
        for kind, table in tables.items()
    )


async def _case(bench: _Bench, name: str, kind: QueryKind, tuning: TuningRecord) -> Case:
    store, made, gallery = bench.store, bench.made, bench.gallery
    rows, share = len(gallery.vectors), FILTERS[name]
    where = ""
    if share < 1:
        limits = types_pb2.Filter.Range(max=passing_of(rows, share) - 1)
        where = compile_filter(types_pb2.Filter(width=limits), FilterTarget.IMAGES)
    started = time.perf_counter()
    estimate = await store.estimate(made, where=where, of="images")
    estimate_ms = (time.perf_counter() - started) * 1000
    plan = plan_search(
        made.index,
        kind=kind,
        of="images",
        rows=estimate.rows,
        passing=estimate.passing,
        target_recall=TARGET_RECALL,
        tuning=tuning,
    )
    params = SearchParams(nprobe=plan.nprobe, exact=plan.exact, consistency=Consistency.BOUNDED)
    times, shares = [], []
    for query in gallery.queries(kind, bench.queries):
        started = time.perf_counter()
        [hits] = await store.search_images(made, query[None], limit=K, where=where, params=params)
        times.append((time.perf_counter() - started) * 1000)
        truth = gallery.nearest(query, share)
        shares.append(len(truth & {hit.id for hit in hits}) / len(truth))
    return Case(
        rows=rows,
        nlist=made.index.nlist,
        filter=name,
        kind=kind.value,
        recall=statistics.mean(shares),
        exact=plan.exact,
        nprobe=plan.nprobe,
        reason=plan.reason,
        p50_ms=statistics.median(times),
        estimate_ms=estimate_ms,
    )
