"""How one image is worked on: taken where it stands, brought on, and put back if something is away.

Embedding runs without a lock. Every step that writes takes the image's lock, looks again, writes, and runs to its end
whatever happens to those who wait.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog

from services.common.domain import Analysis, Lane, Vector
from services.common.errors import Aborted, FailedPrecondition, InvalidImage, SaccadeError
from services.common.records import CollectionRecord, ImageRecord, ImageState
from services.ingest import metrics
from services.ingest.collections import Collections
from services.ingest.files import ImageFiles, OriginalLost
from services.ingest.intake import Intake
from services.ingest.locks import KeyedLocks
from services.ingest.markers import Marker, MarkerStore, Op
from services.ingest.patience import Patience
from services.ingest.pipeline import Moved, Pipeline, Refused
from services.ingest.settings import IngestSettings
from services.ingest.solitude import LOST_ALONE, LOST_TOGETHER, EmbedderLost, LostAlone, Solitude, crashes
from services.ingest.uninterrupted import Uninterrupted
from services.ingest.work import Work

__all__ = ["NO_SEGMENTER", "Worker"]

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)

NO_SEGMENTER = "NO_SEGMENTER"
"""Reason with which an embedder without a segmenter refuses to take an image apart."""


class Worker:
    """Brings images on, each as far as it goes. `locks` and `steps` are shared with all that changes images."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        files: ImageFiles,
        intake: Intake,
        markers: MarkerStore,
        collections: Collections,
        locks: KeyedLocks,
        steps: Uninterrupted,
        solitude: Solitude,
        settings: IngestSettings,
    ) -> None:
        self._pipeline = pipeline
        self._solitude = solitude
        self._files = files
        self._intake = intake
        self._markers = markers
        self._collections = collections
        self._locks = locks
        self._steps = steps
        self._settings = settings
        self._patience = Patience(settings.patience_s, settings.outage_patience_s)
        self._embedding = {lane: asyncio.Semaphore(settings.embed_concurrency) for lane in Lane}
        self._analyzing = {lane: asyncio.Semaphore(settings.analyze_concurrency) for lane in Lane}

    async def run(self, work: Work, crowded: Callable[[], bool]) -> None:
        """Work on an image until it is done, refused, put back, or left to the reconciler.

        Args:
            work: The image; those who wait for it are told how it ends.
            crowded: Whether others need the room, so that an image that nobody waits for is left once it is searchable.
        """
        try:
            await self._attempt(work, crowded)
        # Whatever it was, the image is put back and tried again later.
        except Exception as exc:
            await self._put_back(work, exc)
            work.end(exc)

    async def renew(self, work: Work) -> None:
        """Keep the image's lease while the work goes on."""
        await self._steps.run(self._renew(work))

    async def release(self, work: Work) -> None:
        """Give the image back, free to take at once, because the process ends."""
        await self._steps.run(self._release(work))

    async def _attempt(self, work: Work, crowded: Callable[[], bool]) -> None:
        try:
            while not await self._advanced(work, crowded):
                await self._step(lambda: self._begin_anew(work))
        except Refused as refused:
            await self._set_aside(work, refused.error)
        except OriginalLost as exc:
            await self._set_aside(work, exc)
        except LostAlone as exc:
            if work.marker is None or work.marker.lost_alone + 1 < LOST_ALONE:
                raise
            _log.warning(
                "image takes the embedder down", collection=work.collection, image=work.image_id, why=exc.message
            )
            await self._set_aside(work, crashes())
        except FailedPrecondition as exc:
            if exc.reason != NO_SEGMENTER:
                raise
            await self._step(lambda: self._finish(work))
            work.end(exc)

    async def _set_aside(self, work: Work, error: SaccadeError) -> None:
        """The image can not be indexed; trying again would not help."""
        _log.info("image refused", collection=work.collection, image=work.image_id, why=error.message)
        await self._step(lambda: self._write_refusal(work, error))
        metrics.IMAGES.labels("failed").inc()
        work.end(InvalidImage(error.message, reason=error.reason))

    async def _advanced(self, work: Work, crowded: Callable[[], bool]) -> bool:
        """Bring the image on; false where the collection got another model or vocabulary on the way."""
        try:
            await self._advance(work, crowded)
        except Moved:
            return False
        return True

    async def _advance(self, work: Work, crowded: Callable[[], bool]) -> None:
        record = await self._step(lambda: self._take(work))
        if record is None:
            return
        collection = await self._collections.get(work.collection)
        if record.state is ImageState.DURABLE:
            record = await self._embed(work, collection, record)
        work.note(record)
        if work.needed or not crowded():
            await self._analyze(work, collection, record)

    async def _embed(self, work: Work, collection: CollectionRecord, record: ImageRecord) -> ImageRecord:
        async with self._embedding[work.embed_lane]:
            data = work.take_data() or await self._original(work, record)
            with metrics.stage("embed"):
                vector = await self._ask(
                    work, collection, lambda: self._pipeline.embed(collection, data, work.embed_lane)
                )
        with metrics.stage("index"):
            record = await self._step(lambda: self._write_vector(work, collection, record.sha256, vector))
        metrics.IMAGES.labels("searchable").inc()
        return record

    async def _analyze(self, work: Work, collection: CollectionRecord, record: ImageRecord) -> None:
        async with self._analyzing[work.analyze_lane]:
            # Bytes are not kept while an image waits for its turn here.
            data = await self._original(work, record)
            with metrics.stage("analyze"):
                analysis = await self._ask(
                    work, collection, lambda: self._pipeline.analyze(collection, data, work.analyze_lane)
                )
        with metrics.stage("index_segments"):
            record = await self._step(lambda: self._write_segments(work, collection, record.sha256, analysis))
        metrics.IMAGES.labels("segmented").inc()
        work.note(record)

    async def _ask(self, work: Work, collection: CollectionRecord, call: Callable[[], Awaitable[_T]]) -> _T:
        """What the embedder says of the image; alone where it was lost too often."""
        alone = work.marker is not None and work.marker.lost >= LOST_TOGETHER
        return await self._solitude.ask(call, alone=alone, model=collection.model, patience=self._patience)

    async def _original(self, work: Work, record: ImageRecord) -> bytes:
        return await self._patience.ask(lambda: self._files.original(work.collection, record))

    async def _step(self, step: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """A step that writes, as a whole; as a whole again where a dependency was away."""
        return await self._patience.ask(lambda: self._steps.run(step()))

    @asynccontextmanager
    async def _held(self, work: Work) -> AsyncIterator[CollectionRecord]:
        """The image's lock, in a collection that stays; Aborted if the work was given up meanwhile."""
        async with self._collections.use(work.collection) as collection, self._locks.hold(work.key):
            if work.stopped:
                raise _changed_meanwhile()
            yield collection

    async def _take(self, work: Work) -> ImageRecord | None:
        """Take the image and see where it stands; None if nothing is left to do, or another replica is at it."""
        async with self._held(work) as collection:
            marker = work.marker
            if marker is None:
                marker = await self._markers.get(*work.key)
                if marker is None or (marker.leased and marker.lease_owner != self._markers.owner):
                    return None
                await self._hold(work, marker)
            if marker.op is Op.DELETE:
                await self._erase(work, collection)
                metrics.IMAGES.labels("deleted").inc()
                return None
            record = await self._settle(work, marker)
            if record is None:
                # Nothing was acknowledged: what lies there is the beginning of a call that never ended.
                await self._erase(work, collection)
                return None
            # Where the bytes were never exchanged the record is the old one, and so are its rows.
            if marker.stale and record.state is ImageState.DURABLE:
                await self._pipeline.clear(collection, work.image_id)
                await self._hold(work, marker.model_copy(update={"stale": False}))
            if record.state in {ImageState.SEGMENTED, ImageState.FAILED}:
                record = await self._refresh(work, collection, record)
            return record

    async def _settle(self, work: Work, marker: Marker) -> ImageRecord | None:
        """The image's record, written first where a crash came between its bytes and it."""
        record = await self._files.read(*work.key)
        intent = marker.intent
        if intent is None or (record is not None and record.sha256 == intent.sha256):
            return record
        data = await self._files.content(*work.key, intent.original_sha256)
        if data is None:
            return record
        await self._files.write_thumbnail(*work.key, await self._intake.thumbnail(data))
        await self._files.write(work.collection, intent)
        return intent

    async def _refresh(self, work: Work, collection: CollectionRecord, record: ImageRecord) -> ImageRecord | None:
        """Bring the rows of an image that is done in line with its record; it begins anew where rows are missing."""
        complete = await self._pipeline.refresh(collection, record)
        if complete or record.state is ImageState.FAILED:
            await self._remove_marker(work)
            work.note(record)
            return None
        again = record.model_copy(update={"state": ImageState.DURABLE})
        await self._files.write(collection.name, again)
        return again

    async def _write_vector(self, work: Work, collection: CollectionRecord, sha256: str, vector: Vector) -> ImageRecord:
        async with self._held(work) as now:
            record = await self._unchanged(work, sha256)
            if now.fingerprint != collection.fingerprint:
                raise Moved
            return await self._pipeline.make_searchable(collection, record, vector)

    async def _write_segments(
        self, work: Work, collection: CollectionRecord, sha256: str, analysis: Analysis
    ) -> ImageRecord:
        async with self._held(work) as now:
            record = await self._unchanged(work, sha256)
            if now.fingerprint != collection.fingerprint:
                raise Moved
            record = await self._pipeline.make_segmented(collection, record, analysis)
            await self._remove_marker(work)
            return record

    async def _begin_anew(self, work: Work) -> None:
        """Where the collection got another model or vocabulary: what was made for the one before is of no use."""
        async with self._held(work):
            if (record := await self._files.read(*work.key)) is not None:
                await self._files.write(work.collection, record.model_copy(update={"state": ImageState.DURABLE}))

    async def _unchanged(self, work: Work, sha256: str) -> ImageRecord:
        """The record as it stands now; Aborted if another replica changed the bytes or removed the image."""
        record = await self._files.read(*work.key)
        if record is None or record.sha256 != sha256:
            raise _changed_meanwhile()
        return record

    async def _write_refusal(self, work: Work, error: SaccadeError) -> None:
        async with self._held(work):
            marker = await self._markers.get(*work.key)
            record = await self._files.read(*work.key)
            ours = marker is not None and marker.lease_owner == self._markers.owner
            if not ours or (marker is not None and marker.replaces(record)):
                # Another replica has begun to store other bytes, which may lie there already.
                raise _changed_meanwhile()
            if record is not None:
                await self._pipeline.make_failed(work.collection, record, error)
            await self._remove_marker(work)

    async def _finish(self, work: Work) -> None:
        """Done, as far as this installation goes; Aborted where rows are missing, so that the image begins anew."""
        async with self._held(work) as collection:
            record = await self._files.read(*work.key)
            if record is None:
                raise _changed_meanwhile()
            # An update may have come while the index was away.
            if await self._refresh(work, collection, record) is not None:
                raise Aborted("the image's rows are missing; it begins anew", reason="HANDED_ON")

    async def _erase(self, work: Work, collection: CollectionRecord) -> None:
        await self._pipeline.erase(collection, work.image_id)
        await self._remove_marker(work)

    async def _remove_marker(self, work: Work) -> None:
        await self._markers.remove(*work.key)
        work.marker = None

    async def _hold(self, work: Work, marker: Marker) -> None:
        work.marker = await self._markers.hold(*work.key, marker)
        work.renewed_at = time.monotonic()

    async def _renew(self, work: Work) -> None:
        async with self._held(work):
            if work.marker is not None:
                await self._hold(work, work.marker)

    async def _release(self, work: Work) -> None:
        async with self._collections.use(work.collection), self._locks.hold(work.key):
            if work.marker is not None:
                await self._markers.release(*work.key, work.marker)

    async def _put_back(self, work: Work, error: Exception) -> None:
        """Leave the image to a later attempt; the sooner, the fewer there were."""
        metrics.IMAGES.labels("put_back").inc()
        names = {"collection": work.collection, "image": work.image_id}
        if isinstance(error, SaccadeError):
            why = error.message
            _log.warning("image put back", why=why, **names)
        else:
            why = repr(error)
            _log.error("image put back", exc_info=error, **names)
        try:
            await self._steps.run(self._write_failure(work, why, error))
        except SaccadeError as exc:
            # Its lease runs out without us.
            _log.info("marker not written", why=exc.message, **names)

    async def _write_failure(self, work: Work, why: str, error: Exception) -> None:
        async with self._held(work):
            if work.marker is not None:
                lost = work.marker.lost + isinstance(error, EmbedderLost)
                lost_alone = work.marker.lost_alone + isinstance(error, LostAlone)
                marker = work.marker.model_copy(update={"lost": lost, "lost_alone": lost_alone})
                limit_s = self._settings.max_backoff_s
                rest_s = min(limit_s, self._settings.backoff_s * 2 ** min(work.marker.attempts, 32))
                # Images that failed together do not come back together.
                rest_s *= random.uniform(0.5, 1)  # noqa: S311 - jitter is no secret
                await self._markers.fail(*work.key, marker, why, rest_s=rest_s)
                # It is no longer ours: a renewal that waits for the lock must not write it again.
                work.marker = None


def _changed_meanwhile() -> Aborted:
    return Aborted("the image was replaced or removed meanwhile", reason="IMAGE_CHANGED")
