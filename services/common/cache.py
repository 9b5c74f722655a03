"""Values that are loaded now and then."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

from services.common.deadline import call_deadline
from services.common.errors import DeadlineExceeded, SaccadeError, Unavailable

__all__ = ["TtlCache"]

# How long a value is loaded while an old one would do.
_PATIENCE_S: Final = 2.0

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")


class TtlCache(Generic[_K, _T]):
    """Loaded values by key; at most `size`, none used when older than `ttl_s`. What fails to load is not kept.

    Where `stale_s` is set, older values are used, up to that age, while whoever has them does not answer.
    """

    def __init__(self, load: Callable[[_K], Awaitable[_T]], *, ttl_s: float, size: int, stale_s: float = 0.0) -> None:
        """Cache what `load` gives."""
        self._stale_s = stale_s
        self._stale: set[_K] = set()
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
        try:
            # With an old value at hand there is no reason to wait long.
            with call_deadline(_PATIENCE_S if kept and self._stale_s else math.inf):
                value = await self._load(key)
        except (Unavailable, DeadlineExceeded):
            if kept is None or now - kept[0] >= self._stale_s:
                raise
            self._stale.add(key)
            return kept[1]
        except SaccadeError:
            self.forget(key)
            raise
        self.forget(key)
        # The time before the load: the value is at least that fresh.
        self._kept[key] = (now, value)
        if len(self._kept) > self._size:
            self.forget(next(iter(self._kept)))
        return value

    def is_stale(self, key: _K) -> bool:
        """Whether the value that `get` gave last is an old one."""
        return key in self._stale

    def forget(self, key: _K) -> None:
        """Load the value anew when it is next asked for."""
        self._kept.pop(key, None)
        self._stale.discard(key)
