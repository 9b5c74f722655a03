"""What the object store knows of the images found: records, segments, and addresses for browsers."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from pydantic import ValidationError

from services.common.domain import Segment, Tag
from services.common.objects import ObjectMissing, ObjectStore
from services.common.records import (
    ImageRecord,
    ImageState,
    SegmentsRecord,
    TagRecord,
    original_key,
    record_key,
    segments_key,
    thumbnail_key,
)
from services.common.vectors import FoundSegment, ImageRow
from services.query.concurrency import both, together
from services.query.ranking import PartScore

__all__ = ["FoundImage", "Matched", "Ranked", "ResultReader"]

READS_AT_ONCE: Final = 32

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ranked:
    """An image that may become a result, as the ranking leaves it.

    Attributes:
        id: Its name.
        score: In [0, 1].
        matches: (index of the part, the segment, cosine), best first.
        score_parts: How the score came about; empty where nobody asked.
        duplicates: Names of near-duplicates folded into it.
    """

    id: str
    score: float
    matches: tuple[tuple[int, FoundSegment, float], ...]
    score_parts: tuple[PartScore, ...]
    duplicates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matched:
    """A segment that answers a part."""

    part: int
    segment: Segment
    similarity: float


@dataclass(frozen=True, slots=True)
class FoundImage:
    """A result; `record` is as fresh as the object store."""

    record: ImageRecord
    score: float
    matched: tuple[Matched, ...]
    score_parts: tuple[PartScore, ...]
    duplicates: tuple[str, ...]
    original_url: str
    thumbnail_url: str


class ResultReader:
    """Completes results. Safe for concurrent use."""

    def __init__(self, objects: ObjectStore) -> None:
        """Read from `objects`."""
        self._objects = objects
        # Over all searches: the store lets some calls wait and refuses the rest, and a search reads up to 100 images.
        self._slots = asyncio.Semaphore(READS_AT_ONCE)

    async def read(self, collection: str, ranked: Iterable[Ranked]) -> list[FoundImage | None]:
        """The images, in order; None for those that are gone."""

        async def read(image: Ranked) -> FoundImage | None:
            async with self._slots:
                return await self._read(collection, image)

        return await together(map(read, ranked))

    async def of_row(self, collection: str, image: Ranked, row: ImageRow) -> FoundImage:
        """An image as the index alone knows it, without asking the object store."""
        original, thumbnail = await self._addresses(collection, image.id)
        return FoundImage(
            record=_record_of_row(row),
            score=image.score,
            matched=tuple(Matched(part, _of_row(found), similarity) for part, found, similarity in image.matches),
            score_parts=image.score_parts,
            duplicates=image.duplicates,
            original_url=original,
            thumbnail_url=thumbnail,
        )

    async def _read(self, collection: str, image: Ranked) -> FoundImage | None:
        record = await self._record(collection, image.id)
        if record is None:
            return None
        original, thumbnail = await self._addresses(collection, image.id)
        return FoundImage(
            record=record,
            score=image.score,
            matched=await self._matched(collection, image),
            score_parts=image.score_parts,
            duplicates=tuple([name for name in image.duplicates if await self._record(collection, name)]),
            original_url=original,
            thumbnail_url=thumbnail,
        )

    async def _addresses(self, collection: str, image_id: str) -> tuple[str, str]:
        return await both(
            self._objects.presign(original_key(collection, image_id)),
            self._objects.presign(thumbnail_key(collection, image_id)),
        )

    async def _record(self, collection: str, image_id: str) -> ImageRecord | None:
        try:
            return ImageRecord.model_validate_json(await self._objects.get(record_key(collection, image_id)))
        except ObjectMissing:
            # Deleted since it was indexed; its rows follow.
            return None
        except ValidationError:
            _log.exception("record can not be read", collection=collection, image_id=image_id)
            return None

    async def _matched(self, collection: str, image: Ranked) -> tuple[Matched, ...]:
        if not image.matches:
            return ()
        stored = {segment.index: segment for segment in await self._segments(collection, image.id)}
        return tuple(
            Matched(part, stored.get(row.index) or _of_row(row), similarity) for part, row, similarity in image.matches
        )

    async def _segments(self, collection: str, image_id: str) -> Sequence[Segment]:
        """All that is known of an image's segments; nothing where it is being replaced just now."""
        try:
            data = await self._objects.get(segments_key(collection, image_id))
            # Masks make it long.
            return await asyncio.to_thread(lambda: SegmentsRecord.model_validate_json(data).to_segments())
        except ObjectMissing:
            return ()
        except ValidationError:
            _log.exception("segments can not be read", collection=collection, image_id=image_id)
            return ()


def _record_of_row(row: ImageRow) -> ImageRecord:
    """What the index knows of an image: it is there, so it has come as far as that."""
    return ImageRecord(
        id=row.id,
        state=ImageState.SEARCHABLE,
        content_type="",
        size_bytes=0,
        width=row.width,
        height=row.height,
        sha256="",
        metadata=row.metadata,
        model_tags=tuple(TagRecord(name=name, confidence=confidence) for name, confidence in row.tags.items()),
        created_at_ms=row.created_at_ms,
        updated_at_ms=row.created_at_ms,
        etag="",
    )


def _of_row(row: FoundSegment) -> Segment:
    """What the index alone knows of a segment: no mask."""
    return Segment(
        index=row.index,
        box=row.box,
        area_fraction=row.area,
        predicted_iou=0.0,
        stability=row.stability,
        tags=tuple(Tag(name, confidence=confidence) for name, confidence in row.tags.items()),
    )
