"""Whether people are waiting for answers these days: bulk work leaves them part of the machine then."""

from collections.abc import Callable
from time import perf_counter
from typing import Final

from saccade.channel import PEOPLE_KEY

__all__ = ["PEOPLE_METADATA", "People"]

LATELY_S: Final = 1.0
"""For so long after an interactive item somebody is taken to be there."""
_BATCH_SHARE: Final = 4
PEOPLE_METADATA: Final = ((PEOPLE_KEY, "here"),)
"""With this the answers to bulk calls end while people are there."""


class People:
    """Remembers when one last asked for something; shared by the queues of a process. Used from one event loop."""

    def __init__(self, *, rest: float = 0.0, now: Callable[[], float] = perf_counter) -> None:
        """Know of nobody.

        Args:
            rest: While people are there, bulk work rests after each batch so many times as long as the batch took.
            now: A clock in seconds.
        """
        self.rest = rest
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
