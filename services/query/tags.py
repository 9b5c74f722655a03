"""How many images of a collection carry each tag."""

from collections import Counter
from typing import Final

from services.common.vectors import Consistency, Generation, VectorStore
from services.query.cache import TtlCache

__all__ = ["TagCounter"]

# Counting reads every image's row; what was counted a moment ago is good enough for a list.
_FRESH_S: Final = 10.0
_KEPT: Final = 64


class TagCounter:
    """Counts tags. Safe for concurrent use."""

    def __init__(self, vectors: VectorStore) -> None:
        """Count in `vectors`."""
        self._vectors = vectors
        self._counts = TtlCache(self._count, ttl_s=_FRESH_S, size=_KEPT)

    async def most_frequent(self, generation: Generation, where: str) -> list[tuple[str, int]]:
        """Tags of the images that pass `where` with how many images carry each, most frequent first, then by name."""
        return await self._counts.get((generation, where))

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
