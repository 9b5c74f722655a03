"""Mends what a repair finds: one image at a time, under its lock, as it then is.

A step that is cut off leaves a marker, or nothing; what it leaves is finished by the reconciler, or found again.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final

from services.common.errors import InvalidImage, SaccadeError
from services.common.records import CollectionRecord, ImageRecord, ImageState
from services.common.vectors import Generation, VectorStore
from services.ingest.collections import Collections
from services.ingest.files import ImageFiles, content_hash
from services.ingest.intake import Intake
from services.ingest.jobs.copying import Copier, Copying, Whole
from services.ingest.jobs.findings import Facts, Kind, differences
from services.ingest.jobs.inspecting import Inspector
from services.ingest.jobs.run import Run
from services.ingest.locks import KeyedLocks
from services.ingest.markers import Marker, MarkerStore, Op, now_ms
from services.ingest.pipeline import Pipeline, image_row, segment_row
from services.ingest.uninterrupted import Uninterrupted

__all__ = ["Mender"]

_WRITES_AT_ONCE: Final = 8
_LOST: Final = "its original is lost; store the image again"


class Mender:
    """Mends images. `locks` and `steps` are shared with all that changes images."""

    def __init__(
        self,
        *,
        inspector: Inspector,
        files: ImageFiles,
        vectors: VectorStore,
        markers: MarkerStore,
        intake: Intake,
        pipeline: Pipeline,
        copier: Copier,
        collections: Collections,
        locks: KeyedLocks,
        steps: Uninterrupted,
    ) -> None:
        """Work on these."""
        self._inspector = inspector
        self._files = files
        self._vectors = vectors
        self._markers = markers
        self._intake = intake
        self._pipeline = pipeline
        self._copier = copier
        self._collections = collections
        self._locks = locks
        self._steps = steps
        self._actions: Mapping[Kind, Callable[[CollectionRecord, Facts], Awaitable[None]]] = {
            Kind.RECORD_MISSING: self._restore_record,
            Kind.RECORD_UNREADABLE: self._restore_record,
            Kind.ORIGINAL_MISSING: self._set_aside,
            Kind.OBJECTS_STRAY: self._remove,
            Kind.THUMBNAIL_MISSING: self._make_thumbnail,
            Kind.UNFINISHED: self._hand_on,
            Kind.SEGMENTS_UNREADABLE: self._begin_anew,
            Kind.ROWS_DIFFER: self._bring_in_line,
            Kind.ROWS_ORPHANED: self._remove_segments,
        }

    async def mend(self, owner: CollectionRecord, image_id: str, kind: Kind, *, segmenter: bool) -> None:
        """Mend one difference of an image, if it is still there; all but ROWS_MISSING."""

        async def step() -> None:
            async with self._collections.use(owner.name), self._locks.hold((owner.name, image_id)):
                facts = await self._inspector.look_again(owner, image_id, indexed=True)
                if facts is not None and kind in differences(facts, segmenter=segmenter):
                    await self._actions[kind](owner, facts)

        await self._steps.run(step())

    async def try_again(self, owner: CollectionRecord, image_id: str) -> None:
        """Have an image indexed that was set aside for a reason that may have passed."""

        async def step() -> None:
            async with self._collections.use(owner.name), self._locks.hold((owner.name, image_id)):
                facts = await self._inspector.look_again(owner, image_id, indexed=False)
                if facts is not None and facts.retried:
                    await self._begin_anew(owner, facts)

        await self._steps.run(step())

    async def restore_rows(self, run: Run, owner: CollectionRecord, records: Sequence[ImageRecord]) -> None:
        """Write the rows of images again, with their stored segments: vectors that stand, or made anew in bulk."""
        whole, refused = await self._copier.with_vectors(run, Copying(owner, owner.live), records)
        slots = asyncio.Semaphore(_WRITES_AT_ONCE)

        async def write(image: Whole) -> None:
            async with slots:
                await run.ask(self._kept, partial(self._write_rows, owner, image))

        results = await asyncio.gather(*map(write, whole), return_exceptions=True)
        for result in results:
            # All have ended by now: none goes on behind the job's back.
            if isinstance(result, BaseException):
                raise result
        by_id = {record.id: record for record in records}
        for image_id, error in refused.items():
            if error is not None:
                await run.ask(self._kept, partial(self._refuse, owner, by_id[image_id], error))

    async def remove_rows(self, owner: CollectionRecord, image_id: str) -> bool:
        """Remove the rows of an image that is not stored; whether that was so."""

        async def step() -> bool:
            async with self._collections.use(owner.name), self._locks.hold((owner.name, image_id)):
                if await self._inspector.is_there(owner.name, image_id):
                    return False
                await self._vectors.delete_images(Generation.of(owner), [image_id])
                return True

        return await self._steps.run(step())

    async def settle_marker(self, owner: CollectionRecord, image_id: str, kind: Kind, seen: Marker) -> None:
        """Do what a marker that nobody takes asks for, and remove it."""

        async def step() -> None:
            key = (owner.name, image_id)
            async with self._collections.use(owner.name), self._locks.hold(key):
                if await self._markers.get(*key) != seen:
                    return
                if kind is Kind.TOMBSTONE_UNFINISHED or not (await self._files.listed_one(*key)).holds_record:
                    await self._markers.hold(*key, Marker(op=Op.DELETE))
                    await self._pipeline.erase(owner, image_id)
                await self._markers.remove(*key)

        await self._steps.run(step())

    async def _kept(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await self._steps.run(step())

    async def _write_rows(self, owner: CollectionRecord, image: Whole) -> None:
        key = (owner.name, image.record.id)
        async with self._collections.use(owner.name), self._locks.hold(key):
            # What changed meanwhile has rows of its own, or gets them.
            if await self._markers.get(*key) is not None or await self._files.read(*key) != image.record:
                return
            live = Generation.of(owner)
            rows = [segment_row(image.record, segment) for segment in image.segments]
            await self._vectors.replace_segments(live, image.record.id, rows)
            await self._vectors.upsert_images(live, [image_row(image.record, image.vector)])

    async def _refuse(self, owner: CollectionRecord, record: ImageRecord, error: SaccadeError) -> None:
        """The image's vectors can not be made again: the embedder refuses it, or the image takes it down."""
        key = (owner.name, record.id)
        async with self._collections.use(owner.name), self._locks.hold(key):
            if await self._markers.get(*key) is None and await self._files.read(*key) == record:
                await self._vectors.delete_images(Generation.of(owner), [record.id])
                await self._pipeline.make_failed(owner.name, record, error)

    async def _restore_record(self, owner: CollectionRecord, facts: Facts) -> None:
        """A record for the bytes that are there, with what the index knows of their words; they are indexed anew."""
        image_id, row = facts.stored.id, facts.row
        try:
            data = await self._files.any_original(owner.name, image_id) if facts.has_original else b""
            content = await self._intake.inspect(data)
        except InvalidImage:
            await self._remove(owner, facts)
            return
        record = ImageRecord(
            id=image_id,
            state=ImageState.DURABLE,
            content_type=content.info.content_type,
            size_bytes=len(data),
            width=content.info.width,
            height=content.info.height,
            sha256=await asyncio.to_thread(content_hash, data),
            metadata=row.metadata if row is not None else {},
            # A person's have this confidence.
            user_tags=tuple(name for name, confidence in row.tags.items() if confidence >= 1) if row else (),
            created_at_ms=row.created_at_ms if row is not None else now_ms(),
            updated_at_ms=now_ms(),
            etag=secrets.token_hex(8),
        )
        held = await self._markers.hold(owner.name, image_id, Marker(intent=record, stale=True))
        await self._files.write_thumbnail(owner.name, image_id, content.thumbnail)
        await self._files.write(owner.name, record)
        await self._markers.release(owner.name, image_id, held)

    async def _set_aside(self, owner: CollectionRecord, facts: Facts) -> None:
        """An image without its bytes is not found any more, and says why."""
        record = facts.record
        if record is not None:
            await self._markers.hold(owner.name, record.id, Marker())
            await self._vectors.delete_images(Generation.of(owner), [record.id])
            failed = {"state": ImageState.FAILED, "failure": _LOST, "failure_reason": "ORIGINAL_LOST"}
            await self._files.write(owner.name, record.model_copy(update=failed))
            await self._markers.remove(owner.name, record.id)

    async def _remove(self, owner: CollectionRecord, facts: Facts) -> None:
        image_id = facts.stored.id
        await self._markers.hold(owner.name, image_id, Marker(op=Op.DELETE))
        await self._pipeline.erase(owner, image_id)
        await self._markers.remove(owner.name, image_id)

    async def _make_thumbnail(self, owner: CollectionRecord, facts: Facts) -> None:
        data = await self._files.any_original(owner.name, facts.stored.id)
        await self._files.write_thumbnail(owner.name, facts.stored.id, await self._intake.thumbnail(data))

    async def _hand_on(self, owner: CollectionRecord, facts: Facts) -> None:
        """The reconciler goes on from where the image stands."""
        stale = facts.record is not None and facts.record.state is ImageState.DURABLE
        await self._markers.release(owner.name, facts.stored.id, Marker(stale=stale))

    async def _begin_anew(self, owner: CollectionRecord, facts: Facts) -> None:
        """The reconciler does the image from the start; what stands of it is found until then."""
        record = facts.record
        if record is not None:
            held = await self._markers.hold(owner.name, record.id, Marker())
            again = {"state": ImageState.DURABLE, "failure": "", "failure_reason": ""}
            await self._files.write(owner.name, record.model_copy(update=again))
            await self._markers.release(owner.name, record.id, held)

    async def _bring_in_line(self, owner: CollectionRecord, facts: Facts) -> None:
        if facts.record is not None:
            await self._pipeline.refresh(owner, facts.record)

    async def _remove_segments(self, owner: CollectionRecord, facts: Facts) -> None:
        kept = {segment.index for segment in facts.segments or ()}
        await self._vectors.delete_segments(Generation.of(owner), facts.stored.id, sorted(facts.indices - kept))
