"""What a swap may have left behind: handed to the indexer, which works in the generation that is live by then."""

from typing import Final

import structlog

from services.common.records import CollectionRecord, ImageState
from services.common.vectors import Generation, VectorStore
from services.ingest.collections import Collections
from services.ingest.dirt import DirtyMarks
from services.ingest.files import ImageFiles, RecordDamaged
from services.ingest.jobs.run import Run
from services.ingest.locks import KeyedLocks
from services.ingest.markers import Marker, MarkerStore, Op
from services.ingest.uninterrupted import Uninterrupted

__all__ = ["Following"]

_log = structlog.get_logger(__name__)

_MARKS_AT_ONCE: Final = 200
_IDS_AT_ONCE: Final = 500


class Following:
    """Gives images to the indexer that may be other in the live generation than their records say."""

    def __init__(
        self,
        *,
        collections: Collections,
        files: ImageFiles,
        vectors: VectorStore,
        markers: MarkerStore,
        dirt: DirtyMarks,
        locks: KeyedLocks,
        steps: Uninterrupted,
    ) -> None:
        """Work on these; `locks` and `steps` are shared with all that changes images."""
        self._collections = collections
        self._files = files
        self._vectors = vectors
        self._markers = markers
        self._dirt = dirt
        self._locks = locks
        self._steps = steps

    async def clear_marks(self, collection: str) -> int:
        """Dispose of some marks, where nothing is being built; how many there were.

        One that was left before the live generation went live: its image is indexed anew. Others are of a generation
        that never came to be.
        """
        marks = await self._dirt.page(collection, limit=_MARKS_AT_ONCE)
        # Read after the marks: what is marked from now on for a generation that is begun now is not among them.
        record = await self._collections.peek(collection) if marks else None
        if record is None or record.building is not None:
            return 0
        for image_id in dict.fromkeys(mark.image_id for mark in marks if mark.generation != record.generation):
            await self._steps.run(self._begin_anew(collection, image_id, stale=True))
        await self._dirt.remove(marks)
        return len(marks)

    async def hand_on_marks(self, run: Run, collection: str) -> None:
        """Dispose of all marks that stand."""
        while await run.ask(self.clear_marks, collection):
            pass

    async def compare(self, run: Run, record: CollectionRecord, *, other_model: bool) -> int:
        """Compare the live generation's images with those stored, both ways; how many are indexed anew.

        What failed under another model is tried again.
        """
        live = Generation.of(record)
        total, anew, after = 0, 0, ""
        while ids := await run.ask(self._files.ids, record.name, start_after=after, limit=_IDS_AT_ONCE):
            standing = await run.ask(self._vectors.standing_images, live, ids)
            for image_id in ids:
                run.check()
                if other_model or image_id not in standing:
                    anew += await run.ask(self._look_at, record.name, image_id, stands=image_id in standing)
            total, after = total + len(standing), ids[-1]
        if await run.ask(self._vectors.count_images, live) > total:
            await self.remove_strangers(run, record.name, live)
        return anew

    async def remove_strangers(self, run: Run, collection: str, generation: Generation) -> None:
        """Take away from a generation what no stored image stands for."""
        after = ""
        while ids := await run.ask(
            self._vectors.list_image_ids, generation, where="", start_after=after, limit=_IDS_AT_ONCE
        ):
            for image_id in ids:
                run.check()
                await run.ask(self._remove_if_gone, collection, generation, image_id)
            after = ids[-1]

    async def _remove_if_gone(self, collection: str, generation: Generation, image_id: str) -> None:
        await self._steps.run(self._remove(collection, generation, image_id))

    async def _remove(self, collection: str, generation: Generation, image_id: str) -> None:
        async with self._locks.hold((collection, image_id)):
            try:
                if await self._files.read(collection, image_id) is None:
                    await self._vectors.delete_images(generation, [image_id])
            except RecordDamaged:
                return

    async def _look_at(self, collection: str, image_id: str, *, stands: bool) -> bool:
        """Have an image indexed anew if its rows are missing, or it failed; whether that is so."""
        try:
            record = await self._files.read(collection, image_id)
        except RecordDamaged:
            return False
        if record is None or (stands and record.state is not ImageState.FAILED):
            return False
        if record.state is ImageState.DURABLE and await self._markers.get(collection, image_id) is not None:
            return False
        await self._steps.run(self._begin_anew(collection, image_id, stale=False))
        return True

    async def _begin_anew(self, collection: str, image_id: str, *, stale: bool) -> None:
        """Let the indexer do the image from the start; `stale` where rows of other bytes may stand for it."""
        async with self._locks.hold((collection, image_id)):
            try:
                record = await self._files.read(collection, image_id)
            except RecordDamaged:
                return
            marker = await self._markers.get(collection, image_id)
            if record is None:
                # Where there is a marker somebody is at it, storing or removing.
                if marker is None:
                    await self._markers.release(collection, image_id, Marker(op=Op.DELETE))
                return
            if marker is not None and (marker.op is Op.DELETE or marker.intent is not None):
                return
            if marker is not None and record.state is ImageState.DURABLE:
                return
            held = await self._markers.hold(collection, image_id, Marker(stale=stale))
            again = {"state": ImageState.DURABLE, "failure": "", "failure_reason": ""}
            await self._files.write(collection, record.model_copy(update=again))
            await self._markers.release(collection, image_id, held)
