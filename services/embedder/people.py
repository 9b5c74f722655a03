"""Whether people are waiting for answers these days: bulk work leaves them part of the machine then."""

from collections.abc import Callable
from time import perf_counter
from typing import Final

__all__ = ["REST", "People"]

LATELY_S: Final = 1.0
"""For so long after an interactive item somebody is taken to be there."""
REST: Final = 1.0
"""While people are there, bulk work rests after each batch, so many times as long as the batch took."""
_BATCH_SHARE: Final = 4


class People:
    """Remembers when one last asked for something; shared by the queues of a process. Used from one event loop."""

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        """Know of nobody; `now` is a clock in seconds."""
        self._now = now
        self._seen_at = float("-inf")

    def seen(self) -> None:
        """One asks for something."""
        self._seen_at = self._now()

    @property
    def are_here(self) -> bool:
        """Whether one asked lately."""
        return self._now() - self._seen_at < LATELY_S

    def bulk_batch(self, max_batch: int) -> int:
        """How many bulk items may be computed together: who comes meanwhile waits for the batch to end."""
        return max(1, max_batch // _BATCH_SHARE) if self.are_here else max_batch
