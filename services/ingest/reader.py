"""Images as callers read them: one by one, and in lists."""

import asyncio
from dataclasses import dataclass, replace
from typing import Final

import structlog

from services.common.domain import Segment
from services.common.records import CollectionRecord, ImageRecord, ImageState, check_image_id
from services.common.vectors import Generation, VectorStore
from services.ingest.collections import Collections
from services.ingest.files import ImageFiles, RecordDamaged, no_image

__all__ = ["Found", "Reader"]

_log = structlog.get_logger(__name__)

_READS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Found:
    """An image with its segments and presigned addresses."""

    record: ImageRecord
    segments: tuple[Segment, ...]
    original_url: str
    thumbnail_url: str


class Reader:
    """Reads images of all collections."""

    def __init__(self, files: ImageFiles, vectors: VectorStore, collections: Collections) -> None:
        """Read from these."""
        self._files = files
        self._vectors = vectors
        self._collections = collections

    async def get(self, collection: str, image_id: str, *, vectors: bool) -> Found:
        """An image with its segments, masks included; their vectors where asked for. NotFound if there is none."""
        owner = await self._collections.get(collection)
        record = await self._files.read(collection, check_image_id(image_id))
        if record is None:
            raise no_image(collection, image_id)
        done = record.state is ImageState.SEGMENTED
        segments = await self._files.segments(collection, image_id) if done else ()
        if vectors and segments:
            segments = await self._with_vectors(owner, image_id, segments)
        return replace(await self.located(collection, record), segments=segments)

    async def located(self, collection: str, record: ImageRecord) -> Found:
        """An image with presigned addresses, without segments."""
        original_url, thumbnail_url = await self._files.addresses(collection, record.id)
        return Found(record, (), original_url, thumbnail_url)

    async def page(self, collection: str, *, where: str, start_after: str, limit: int) -> tuple[list[Found], str]:
        """Up to `limit` images from behind `start_after`, without segments, and where to go on; empty at the end.

        Without a filter they are all that are stored, in the order of their keys; with one, those among the searchable
        that pass it, in the order of their ids. An image whose record is damaged is left out, and logged.
        """
        owner = await self._collections.get(collection)
        if where:
            ids = await self._vectors.list_image_ids(
                Generation.of(owner), where=where, start_after=start_after, limit=limit + 1
            )
        else:
            ids = await self._files.ids(collection, start_after=start_after, limit=limit + 1)
        wanted = ids[:limit]
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(image_id: str) -> Found | None:
            async with slots:
                try:
                    record = await self._files.read(collection, image_id)
                except RecordDamaged as exc:
                    _log.error("image left out of a list", collection=collection, image=image_id, why=exc.message)
                    return None
                return None if record is None else await self.located(collection, record)

        found = await asyncio.gather(*(read(image_id) for image_id in wanted))
        return [image for image in found if image is not None], wanted[-1] if len(ids) > limit else ""

    async def _with_vectors(
        self, owner: CollectionRecord, image_id: str, segments: tuple[Segment, ...]
    ) -> tuple[Segment, ...]:
        rows = await self._vectors.get_segment_vectors(Generation.of(owner), [image_id])
        vectors = {row.index: row.vector for row in rows.get(image_id, [])}
        return tuple(replace(segment, vector=vectors.get(segment.index)) for segment in segments)
