"""Counts that searches are planned by: a moment old, and never waited for long."""

import math
from typing import Final

from services.common.cache import TtlCache
from services.common.deadline import call_deadline
from services.common.errors import DeadlineExceeded
from services.common.vectors.planning import RowEstimate
from services.common.vectors.rows import Consistency
from services.common.vectors.tables import Tables

__all__ = ["Counts"]

# How long counts are good, how many are kept, and how long one may take.
COUNT_FRESH_S: Final = 10.0
COUNTS_KEPT: Final = 1_024
COUNT_PATIENCE_S: Final = 0.5


class Counts:
    """Counts of rows by physical collection and filter. Safe for concurrent use."""

    def __init__(self, tables: Tables) -> None:
        """Count there."""
        self._tables = tables
        self._counts = TtlCache(self._counted, ttl_s=COUNT_FRESH_S, size=COUNTS_KEPT)

    async def estimate(self, name: str, where: str) -> RowEstimate:
        """Rows of a physical collection, and how many of them `where` passes; None where counting takes too long."""
        rows = await self.rows(name)
        return RowEstimate(rows, await self._counts.get((name, where)) if where else rows)

    async def rows(self, name: str) -> int:
        """All rows of a physical collection."""
        return await self._counts.get((name, "")) or 0

    async def _counted(self, asked: tuple[str, str]) -> int | None:
        name, where = asked
        try:
            # A search must not wait long for how it is to be made.
            with call_deadline(COUNT_PATIENCE_S if where else math.inf):
                return await self._tables.count(name, where, Consistency.BOUNDED)
        except DeadlineExceeded:
            if not where:
                raise
            return None
