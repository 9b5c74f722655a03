"""How the vectors of an index are searched, by the kind of the index."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidArgument
from services.common.records import IndexType, Metric
from services.common.vectors.codec import Entity, check_vectors
from services.common.vectors.index import default_candidates, default_ef, index_nlist, index_nprobe
from services.common.vectors.literals import one_of
from services.common.vectors.rows import Generation, SearchParams
from services.common.vectors.schema import bits_name
from services.common.vectors.signs import sign_bits
from services.common.vectors.tables import MAX_LIMIT, Tables, check_limit

__all__ = ["MAX_EF", "Searcher"]

# Query vectors in one search.
MAX_VECTORS: Final = 256
# Milvus' largest search list of a graph: as near to exact as a graph comes.
MAX_EF: Final = 32_768

# Most rows that are read to be compared here, where Milvus finds fewer than there are.
SCANNED_ROWS: Final = 2_000

Hits = list[list[Entity]]


@dataclass(frozen=True, slots=True)
class _Asked:
    generation: Generation
    name: str
    limit: int
    where: str
    params: SearchParams


class Searcher:
    """Searches of vectors. Safe for concurrent use."""

    def __init__(self, tables: Tables, count: Callable[[str], Awaitable[int]]) -> None:
        """Search in `tables`; `count` says how many rows a physical collection has, as of some seconds ago."""
        self._tables = tables
        self._count = count

    async def search(
        self,
        generation: Generation,
        name: str,
        vectors: NDArray[np.float32],
        *,
        limit: int,
        where: str,
        params: SearchParams,
    ) -> Hits:
        """For each row of `vectors` [n, d] at most `limit` hits, best first, whose "distance" is the cosine.

        Where the part of the index that was looked into held too few, the rest is looked into too: an index searches
        its nprobe nearest lists, or as much of its graph, and no more, however few of their rows pass the filter.
        """
        array = check_vectors(vectors, generation.dimension)
        check_limit(limit)
        if not 1 <= len(array) <= MAX_VECTORS:
            raise InvalidArgument(f"a search has 1 to {MAX_VECTORS} vectors, not {len(array)}", field="vectors")
        asked = _Asked(generation, name, limit, where, params)
        if generation.index.type is IndexType.LSH and not params.exact:
            return await self._by_signs(asked, array)
        first, most = _options(generation, params, limit)
        found = await self._by_vectors(asked, array, first)
        short = [at for at, hits in enumerate(found) if len(hits) < limit]
        if short and first != most:
            for at, hits in zip(short, await self._by_vectors(asked, array[short], most), strict=True):
                found[at] = hits
        short = [at for at in short if len(found[at]) < limit]
        return await self._completed(asked, array, found, short) if short else found

    async def _completed(self, asked: _Asked, array: NDArray[np.float32], found: Hits, short: list[int]) -> Hits:
        """The hits, those at `short` with what the index missed of the rows that pass.

        Until a segment has its own index, Milvus 2.3 searches it by an interim one with 16 of 128 lists, whatever it is
        told: of the few rows that pass a narrow filter it found as little as half.
        """
        count = await self._tables.count(asked.name, asked.where, asked.params.consistency)
        if all(len(found[at]) >= count for at in short):
            return found
        fields = ("id", "vector")
        rows = await self._tables.query(
            asked.name, asked.where, fields, asked.params.consistency, limit=min(SCANNED_ROWS, MAX_LIMIT)
        )
        if not rows:
            return found
        vectors = np.asarray([row["vector"] for row in rows], dtype=np.float32)
        for at in short:
            known = {hit["id"] for hit in found[at]}
            similarities = vectors @ array[at]
            missed = [
                {"id": row["id"], "distance": float(similarity)}
                for row, similarity in zip(rows, similarities, strict=True)
                if row["id"] not in known
            ]
            found[at] = sorted([*found[at], *missed], key=lambda hit: -hit["distance"])[: asked.limit]
        return found

    async def _by_vectors(self, asked: _Asked, array: NDArray[np.float32], options: dict[str, int]) -> Hits:
        metric = asked.generation.index.metric
        found = await self._tables.search(
            asked.name,
            list(array),
            field="vector",
            metric=metric.value,
            options=options,
            where=asked.where,
            limit=asked.limit,
            consistency=asked.params.consistency,
        )
        if metric is Metric.L2:
            for hit in (hit for hits in found for hit in hits):
                # Milvus gives the square, and |a - b|^2 = 2 - 2 cos for vectors of length 1.
                hit["distance"] = 1 - hit["distance"] / 2
        return found

    async def _by_signs(self, asked: _Asked, array: NDArray[np.float32]) -> Hits:
        """Of the rows whose signs are nearest, those whose vectors are."""
        told = asked.params.nprobe or asked.generation.index.nprobe
        candidates = told or default_candidates(await self._count(asked.name))
        near = await self._tables.search(
            bits_name(asked.name),
            [row.tobytes() for row in sign_bits(array)],
            field="vector",
            metric="HAMMING",
            options={},
            where=asked.where,
            limit=min(MAX_LIMIT, max(asked.limit, candidates)),
            consistency=asked.params.consistency,
        )

        async def nearest(at: int) -> list[Entity]:
            if not near[at]:
                return []
            # 5,000 candidates took Milvus 33 ms to compare; reading their vectors to compare them here took 71 ms.
            among = replace(asked, where=one_of("id", [hit["id"] for hit in near[at]]))
            [hits] = await self._by_vectors(among, array[at : at + 1], {})
            return hits

        return list(await asyncio.gather(*map(nearest, range(len(array)))))


def _options(generation: Generation, params: SearchParams, limit: int) -> tuple[dict[str, int], dict[str, int]]:
    """What Milvus is told at first, and what it is told where that found too few."""
    spec = generation.index
    match spec.type:
        case IndexType.IVF_FLAT:
            nlist = index_nlist(spec)
            nprobe = nlist if params.exact else min(nlist, params.nprobe or index_nprobe(spec))
            return {"nprobe": nprobe}, {"nprobe": nlist}
        case IndexType.HNSW:
            ef = MAX_EF if params.exact else params.nprobe or spec.nprobe or default_ef(spec.target_recall)
            # Milvus refuses a search list shorter than the answer.
            return {"ef": min(MAX_EF, max(ef, limit))}, {"ef": MAX_EF}
        case _:
            return {}, {}
