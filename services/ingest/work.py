"""One image on its way into the index, and those who wait for it."""

import asyncio
import time
from typing import Final

from services.common.domain import Lane
from services.common.records import ImageRecord, ImageState
from services.ingest.markers import Marker

__all__ = ["Key", "Work"]

Key = tuple[str, str]
"""Collection and image id."""

_RANK: Final = {ImageState.SEARCHABLE: 1, ImageState.SEGMENTED: 2}


class Work:
    """One image's way; lives in one event loop.

    Attributes:
        key: The image.
        marker: Its marker as this replica holds it; None before it is taken, and after it is removed.
        renewed_at: When the marker was last written, on the monotonic clock.
        embed_lane: The queue for its vector.
        analyze_lane: The queue for its segments.
        needed: Whether somebody waits for its segments, so that they are made even where there is no room.
        stopped: Whether it was given up; nothing may be written for it any more.
        task: What runs it.
    """

    def __init__(self, key: Key, marker: Marker | None = None, data: bytes = b"") -> None:
        """Make it; `data` are the image's bytes, where they are at hand."""
        self.key = key
        self.marker = marker
        self.renewed_at = time.monotonic()
        self.embed_lane = Lane.BULK
        self.analyze_lane = Lane.BULK
        self.needed = False
        self.stopped = False
        self.task: asyncio.Task[None] | None = None
        self._data = data
        loop = asyncio.get_running_loop()
        self._reached: dict[ImageState, asyncio.Future[ImageRecord]] = {state: loop.create_future() for state in _RANK}

    @property
    def collection(self) -> str:
        """Name of the collection."""
        return self.key[0]

    @property
    def image_id(self) -> str:
        """The image's id."""
        return self.key[1]

    @property
    def searchable(self) -> bool:
        """Whether it is known to have come so far, and is on the way to its segments."""
        return self._reached[ImageState.SEARCHABLE].done()

    def take_data(self) -> bytes:
        """The image's bytes, if they came with the work; only once, so that they are not kept."""
        data, self._data = self._data, b""
        return data

    def want(self, state: ImageState, *, interactive: bool) -> None:
        """Somebody waits for `state`; `interactive`: in front of bulk work."""
        self.needed |= state is ImageState.SEGMENTED
        if interactive and state in _RANK:
            self.embed_lane = Lane.INTERACTIVE
            if state is ImageState.SEGMENTED:
                self.analyze_lane = Lane.INTERACTIVE

    async def reached(self, state: ImageState) -> ImageRecord:
        """Wait until it has come as far as SEARCHABLE or SEGMENTED; its record then, or the error that stopped it."""
        return await asyncio.shield(self._reached[state])

    def note(self, record: ImageRecord) -> None:
        """Tell those who wait how far it has come."""
        for state, future in self._reached.items():
            if _RANK.get(record.state, 0) >= _RANK[state] and not future.done():
                future.set_result(record)

    def end(self, error: Exception) -> None:
        """Tell those who still wait that it stops here."""
        for future in self._reached.values():
            if not future.done():
                future.set_exception(error)
                # That nobody waits is no mistake.
                future.exception()
