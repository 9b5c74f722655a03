"""Values that are loaded now and then."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["TtlCache"]

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")


class TtlCache(Generic[_K, _T]):
    """Loaded values by key; at most `size`, none used when older than `ttl_s`. What fails to load is not kept."""

    def __init__(self, load: Callable[[_K], Awaitable[_T]], *, ttl_s: float, size: int) -> None:
        """Cache what `load` gives."""
        self._load = load
        self._ttl_s = ttl_s
        self._size = size
        self._kept: dict[_K, tuple[float, _T]] = {}

    async def get(self, key: _K) -> _T:
        """The value, loaded if need be."""
        now = asyncio.get_running_loop().time()
        kept = self._kept.get(key)
        if kept and now - kept[0] < self._ttl_s:
            return kept[1]
        self._kept.pop(key, None)
        value = await self._load(key)
        # The time before the load: the value is at least that fresh.
        self._kept[key] = (now, value)
        if len(self._kept) > self._size:
            self._kept.pop(next(iter(self._kept)))
        return value

    def forget(self, key: _K) -> None:
        """Load the value anew when it is next asked for."""
        self._kept.pop(key, None)
