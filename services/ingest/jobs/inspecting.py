"""Looks at images as they are stored and indexed, so that what somebody works on is never taken for a difference."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from services.common.errors import Internal
from services.common.records import CollectionRecord, ImageRecord, ImageState
from services.common.vectors import Consistency, Generation, VectorStore
from services.ingest.files import ImageFiles, RecordDamaged, StoredImage
from services.ingest.jobs.findings import Facts
from services.ingest.markers import MarkerStore

__all__ = ["Inspector"]

_READS_AT_ONCE: Final = 16


class Inspector:
    """Gathers facts. Changes nothing."""

    def __init__(self, files: ImageFiles, vectors: VectorStore, markers: MarkerStore) -> None:
        """Look there."""
        self._files = files
        self._vectors = vectors
        self._markers = markers

    async def gather(self, owner: CollectionRecord, images: Sequence[StoredImage], *, indexed: bool) -> list[Facts]:
        """Facts about some images, which may change meanwhile: `look_again` at those that differ.

        Args:
            owner: Their collection.
            images: What is listed of them.
            indexed: Whether the live generation is there.
        """
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(stored: StoredImage) -> Facts:
            async with slots:
                return await self._stored(owner.name, stored, indexed=indexed)

        found = await asyncio.gather(*map(read, images))
        if not indexed or not found:
            return found
        ids = [facts.stored.id for facts in found]
        live = Generation.of(owner)
        rows = await self._vectors.get_images(live, ids, consistency=Consistency.STRONG)
        indices = await self._vectors.segment_indices(live, ids)
        return [
            replace(facts, row=rows.get(facts.stored.id), indices=frozenset(indices.get(facts.stored.id, ())))
            for facts in found
        ]

    async def look_again(self, owner: CollectionRecord, image_id: str, *, indexed: bool) -> Facts | None:
        """Facts about one image, all of one moment; None where somebody works on it, or it is gone.

        Whatever changes an image writes its marker first and removes it last. So what has none before and after, and
        the same record, has not changed in between.
        """
        if await self._markers.get(owner.name, image_id) is not None:
            return None
        stored = await self._files.listed_one(owner.name, image_id)
        if not stored.sizes:
            return None
        [facts] = await self.gather(owner, [stored], indexed=indexed)
        if await self._markers.get(owner.name, image_id) is not None:
            return None
        return facts if await self._record(owner.name, image_id) == facts.record else None

    async def is_there(self, collection: str, image_id: str) -> bool:
        """Whether an image is stored, or somebody works on it."""
        if await self._markers.get(collection, image_id) is not None:
            return True
        # Asked after the marker, which goes last when an image is removed, and comes first when one is stored.
        stored = await self._files.listed_one(collection, image_id)
        return bool(stored.sizes) or await self._markers.get(collection, image_id) is not None

    async def _stored(self, collection: str, stored: StoredImage, *, indexed: bool) -> Facts:
        facts = Facts(stored, await self._record(collection, stored.id), indexed=indexed)
        if facts.record is None or facts.record.state is not ImageState.SEGMENTED:
            return facts
        try:
            return replace(facts, segments=await self._files.segments(collection, stored.id))
        except Internal:
            return replace(facts, segments=None)

    async def _record(self, collection: str, image_id: str) -> ImageRecord | None:
        try:
            return await self._files.read(collection, image_id)
        except RecordDamaged:
            return None
