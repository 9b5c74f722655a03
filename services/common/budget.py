"""A bound on memory: so many bytes at a time, and whoever would take more waits."""

import asyncio
from collections import deque

from prometheus_client import Gauge

__all__ = ["ByteBudget", "Share"]

_HELD = Gauge("saccade_bytes_in_hand", "Bytes of requests that are being worked on.", ["budget"])


class ByteBudget:
    """So many bytes, handed out in the order in which they are asked for. Used from one event loop."""

    def __init__(self, name: str, total: int) -> None:
        """Make one of `total` bytes; `name` is for metrics."""
        self._total = total
        self._held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._gauge = _HELD.labels(name)

    @property
    def held_bytes(self) -> int:
        """Bytes that are handed out."""
        return self._held

    async def take(self, size: int) -> "Share":
        """Take so many bytes; more than there are in all count as all. Waits as long as its caller lets it."""
        share = Share(self, min(size, self._total))
        if not self._waiting and self._fits(share.size):
            self._give(share.size)
            return share
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((share.size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                share.release()
            else:
                # What waits behind it may fit.
                self._hand_out()
            raise
        return share

    def _fits(self, size: int) -> bool:
        return self._held + size <= self._total

    def _give(self, size: int) -> None:
        self._held += size
        self._gauge.set(self._held)

    def _hand_out(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.done():
                if not self._fits(size):
                    return
                self._give(size)
                turn.set_result(None)
            self._waiting.popleft()


class Share:
    """Bytes that somebody holds."""

    def __init__(self, budget: ByteBudget, size: int) -> None:
        self._budget = budget
        self.size = size

    def shrink(self, size: int) -> None:
        """Give back what is more than `size` bytes."""
        if size < self.size:
            self._budget._give(size - self.size)
            self.size = size
            self._budget._hand_out()

    def release(self) -> None:
        """Give all of it back; twice is as good as once."""
        self.shrink(0)
