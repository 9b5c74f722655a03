"""How many images of a collection carry each tag, and how rare that makes them."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

from services.common.cache import TtlCache
from services.common.vectors import Consistency, Generation, VectorStore

__all__ = ["TagCounter"]

# Counting reads every image's row; what was counted a moment ago is good enough for a list.
_FRESH_S: Final = 10.0
_KEPT: Final = 64
# Rarity is estimated from the first so many images, by id, and trusted for longer: it moves slowly.
_SAMPLE: Final = 10_000
_RARITY_FRESH_S: Final = 60.0


class TagCounter:
    """Counts tags. Safe for concurrent use."""

    def __init__(self, vectors: VectorStore) -> None:
        """Count in `vectors`."""
        self._vectors = vectors
        self._counts = TtlCache(self._count, ttl_s=_FRESH_S, size=_KEPT)
        self._samples = TtlCache(self._sample, ttl_s=_RARITY_FRESH_S, size=_KEPT)

    async def most_frequent(self, generation: Generation, where: str) -> list[tuple[str, int]]:
        """Tags of the images that pass `where` with how many images carry each, most frequent first, then by name."""
        return await self._counts.get((generation, where))

    async def rarity(self, generation: Generation, names: Iterable[str]) -> dict[str, float]:
        """How rare each tag is: ln(1 + images / (1 + images that carry it)), > 0 (inverse document frequency)."""
        images, counts = await self._samples.get(generation)
        return {name: math.log(1 + max(images, 1) / (1 + counts[name])) for name in names}

    async def _sample(self, generation: Generation) -> tuple[int, Counter[str]]:
        rows = await self._vectors.list_image_tags(generation, limit=_SAMPLE, consistency=Consistency.BOUNDED)
        return len(rows), Counter(tag for _, tags in rows for tag in tags)

    async def _count(self, asked: tuple[Generation, str]) -> list[tuple[str, int]]:
        generation, where = asked
        counts: Counter[str] = Counter()
        after = ""
        while rows := await self._vectors.list_image_tags(
            generation, where=where, start_after=after, consistency=Consistency.BOUNDED
        ):
            for _, tags in rows:
                counts.update(tags)
            after = rows[-1][0]
        return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
