"""Which images this process works on: one work for each, their number bounded, their leases renewed.

An image's work starts when the image is stored, or when the reconciler finds it interrupted. Nobody who waits for it is
needed for it to go on. Where there is no room none starts: the marker stands, and the reconciler comes back to it.
"""

import asyncio
import time

import structlog

from services.common.errors import Aborted, SaccadeError, Unavailable
from services.common.records import ImageState
from services.ingest import metrics
from services.ingest.markers import Marker
from services.ingest.uninterrupted import detached_context
from services.ingest.work import Key, Work
from services.ingest.worker import Worker

__all__ = ["Indexer"]

_log = structlog.get_logger(__name__)


class Indexer:
    """Starts, joins and stops works. Used from one event loop; close it at the end."""

    def __init__(
        self, worker: Worker, *, max_in_flight: int, max_segmenting: int, lease_s: float, drain_s: float
    ) -> None:
        """Make it idle.

        Args:
            worker: What does the work.
            max_in_flight: Images that are not searchable yet, at a time, with nobody waiting.
            max_segmenting: Images that are on the way to their segments, at a time, with nobody waiting.
            lease_s: Leases are renewed each third of this.
            drain_s: How long works may go on after `close`.
        """
        self._worker = worker
        self._max_in_flight = max_in_flight
        self._max_segmenting = max_segmenting
        self._renew_s = lease_s / 3
        self._drain_s = drain_s
        self._works: dict[Key, Work] = {}
        self._closing = False
        self._renewing: asyncio.Task[None] | None = None

    @property
    def room(self) -> int:
        """How many more images may be worked on with nobody waiting."""
        waiting = len(self._works) - self._segmenting
        return 0 if self._closing else max(0, self._max_in_flight - waiting)

    @property
    def segmenting_room(self) -> int:
        """How many more of them may go on to their segments."""
        return 0 if self._closing else max(0, self._max_segmenting - self._segmenting)

    def works_on(self, key: Key) -> bool:
        """Whether this process works on the image now."""
        return key in self._works

    def start(
        self,
        key: Key,
        *,
        marker: Marker | None = None,
        data: bytes = b"",
        wait_for: ImageState = ImageState.DURABLE,
        interactive: bool = False,
    ) -> Work | None:
        """Work on an image, or join the work that goes on.

        Args:
            key: The image.
            marker: Its marker, held by this replica; None: the worker takes the one that stands, where it is free.
            data: Its bytes, where they are at hand.
            wait_for: How far somebody waits; beyond DURABLE the image is taken even where there is no room.
            interactive: Whether that is served before bulk work.

        Returns:
            The work; None where there is no room, or the process is ending.
        """
        work = self._works.get(key)
        if work is None:
            if self._closing or (wait_for is ImageState.DURABLE and not self.room):
                return None
            work = Work(key, marker, data)
            work.want(wait_for, interactive=interactive)
            self._works[key] = work
            metrics.IN_FLIGHT.set(len(self._works))
            work.task = asyncio.create_task(self._run(work), context=detached_context())
            if self._renewing is None:
                self._renewing = asyncio.create_task(self._renew(), context=detached_context())
        else:
            work.want(wait_for, interactive=interactive)
        return work

    def stop(self, key: Key, reason: SaccadeError) -> None:
        """Give up the work on an image that is replaced or removed; call it with the image's lock held."""
        work = self._works.pop(key, None)
        if work is not None:
            work.stopped = True
            work.end(reason)
            if work.task is not None:
                work.task.cancel()

    async def close(self) -> None:
        """Take nothing more, let the works finish for a while, and give back the rest."""
        self._closing = True
        tasks = [work.task for work in self._works.values() if work.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=self._drain_s)
        rest = list(self._works.values())
        if self._renewing is not None:
            self._renewing.cancel()
        for work in rest:
            self.stop(work.key, Unavailable("the service stops; another one goes on with the image"))
        # A step that still runs ends first: it holds the image's lock.
        results = await asyncio.gather(*(self._worker.release(work) for work in rest), return_exceptions=True)
        failed = sum(isinstance(result, BaseException) for result in results)
        if rest:
            _log.info("images given back", count=len(rest), failed=failed)

    async def _run(self, work: Work) -> None:
        try:
            await self._worker.run(work, self._crowded)
        finally:
            if self._works.get(work.key) is work:
                del self._works[work.key]
            metrics.IN_FLIGHT.set(len(self._works))
            work.end(Aborted("the work on the image was handed on; it goes on without a retry", reason="HANDED_ON"))

    def _crowded(self) -> bool:
        return self._closing or self._segmenting > self._max_segmenting

    @property
    def _segmenting(self) -> int:
        return sum(work.searchable for work in self._works.values())

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._renew_s)
            due = time.monotonic() - self._renew_s
            works = [work for work in self._works.values() if work.marker is not None and work.renewed_at <= due]
            # One that can not be renewed now is tried again before its lease is over.
            await asyncio.gather(*(self._worker.renew(work) for work in works), return_exceptions=True)
