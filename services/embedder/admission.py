"""Who may come in: a bounded number of items and bytes at a time, the rest is refused with a time to come back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from services.common.domain import Lane
from services.common.errors import Overloaded
from services.embedder import metrics

__all__ = ["BULK_SHARE", "Admission"]

BULK_SHARE: Final = 0.75
"""Background work may fill this share of the room, so that a person always finds some."""
_MIN_RETRY_S: Final = 0.1
_MAX_RETRY_S: Final = 30.0


class Admission:
    """Counts what is inside. Used from one event loop."""

    def __init__(self, *, max_items: int, max_bytes: int, item_seconds: Callable[[], float]) -> None:
        """Make an empty house.

        Args:
            max_items: Most items inside.
            max_bytes: Most encoded bytes inside.
            item_seconds: How long an item takes now, as measured; tells refused callers when to come back.
        """
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._item_seconds = item_seconds
        self._items = 0
        self._bytes = 0

    @property
    def items(self) -> int:
        """How many are inside."""
        return self._items

    @contextmanager
    def admit(self, items: int, size_bytes: int, lane: Lane) -> Iterator[None]:
        """Be inside with so many items of so many bytes together; never waits.

        Raises:
            Overloaded: they do not fit now; `retry_after_s` is about how long half of what is inside takes.
        """
        share = BULK_SHARE if lane is Lane.BULK else 1.0
        over_items = self._items + items > self._max_items * share
        # A single call may always come in alone, however large the contract lets it be.
        over_bytes = self._bytes > 0 and self._bytes + size_bytes > self._max_bytes * share
        if over_items or over_bytes:
            metrics.REFUSED.labels(lane.value).inc(items)
            wait = min(max(self._items * self._item_seconds() / 2, _MIN_RETRY_S), _MAX_RETRY_S)
            raise Overloaded(
                f"{self._items} items are being worked on and no more fit now; try again in {wait:.1f} s",
                retry_after_s=wait,
            )
        self._items += items
        self._bytes += size_bytes
        try:
            yield
        finally:
            self._items -= items
            self._bytes -= size_bytes
