"""One image's objects: its bytes, its thumbnail, its record and its segments."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from services.common.domain import Segment
from services.common.errors import Internal, NotFound
from services.common.objects import ObjectMissing, ObjectStore
from services.common.records import (
    ImageRecord,
    SegmentsRecord,
    image_key,
    image_prefix,
    original_key,
    record_key,
    segments_key,
    thumbnail_key,
)

__all__ = ["ImageFiles", "OriginalLost", "RecordDamaged", "StoredImage", "content_hash", "no_image"]

_JSON: Final = "application/json"
_WEBP: Final = "image/webp"
_RECORD: Final = "record.json"
# Objects in one listing of images; each has up to four.
_LISTED: Final = 4_000


class RecordDamaged(Internal):
    """An image's record is there, and is none."""

    default_reason = "RECORD_DAMAGED"


class OriginalLost(Internal):
    """An image's bytes are not there, or are others than its record says."""

    default_reason = "ORIGINAL_LOST"


@dataclass(frozen=True, slots=True)
class StoredImage:
    """What the store lists below an image's key: the objects' names and their sizes in bytes."""

    id: str
    sizes: Mapping[str, int]

    @property
    def holds_record(self) -> bool:
        """Whether there is a record, readable or not."""
        return _RECORD in self.sizes


def no_image(collection: str, image_id: str, field: str = "id") -> NotFound:
    """The error for an image that is not there; `field` is where the request names it."""
    return NotFound(
        f"there is no image {image_id!r} in the collection {collection!r}", field=field, reason="IMAGE_NOT_FOUND"
    )


def content_hash(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


class ImageFiles:
    """Reads and writes images' objects; each call raises what the object store raises."""

    def __init__(self, objects: ObjectStore) -> None:
        """Work on this store."""
        self._objects = objects

    async def ids(self, collection: str, *, start_after: str, limit: int) -> list[str]:
        """Ids of images, in the order of their keys, from behind `start_after`."""
        return await self._objects.list_folders(image_prefix(collection), start_after=start_after, limit=limit)

    async def listed(self, collection: str, *, start_after: str = "") -> list[StoredImage]:
        """What lies there of some images, in the order of their keys, from behind `start_after`; none at the end."""
        prefix = image_prefix(collection)
        # "0" follows "/": behind all that is the image's own.
        after = f"{prefix}{start_after}0" if start_after else ""
        found = await self._objects.list(prefix, start_after=after, limit=_LISTED)
        images: dict[str, dict[str, int]] = {}
        for info in found:
            image_id, _, name = info.key.removeprefix(prefix).partition("/")
            images.setdefault(image_id, {})[name] = info.size_bytes
        if len(found) == _LISTED and len(images) > 1:
            # Of the last one there may be more.
            images.popitem()
        return [StoredImage(image_id, sizes) for image_id, sizes in images.items()]

    async def listed_one(self, collection: str, image_id: str) -> StoredImage:
        """What lies there of one image."""
        prefix = image_key(collection, image_id)
        found = await self._objects.list(prefix, limit=_LISTED)
        return StoredImage(image_id, {info.key.removeprefix(prefix): info.size_bytes for info in found})

    async def has_original(self, collection: str, record: ImageRecord) -> bool:
        """Whether bytes of the right number are there, without reading them."""
        key = original_key(collection, record.id)
        found = await self._objects.list(key, limit=1)
        return bool(found) and (found[0].key, found[0].size_bytes) == (key, record.size_bytes)

    async def read(self, collection: str, image_id: str) -> ImageRecord | None:
        """The image's record; None if there is none, RecordDamaged if it can not be read."""
        try:
            data = await self._objects.get(record_key(collection, image_id))
            return ImageRecord.model_validate_json(data)
        except ObjectMissing:
            return None
        except ValidationError as exc:
            raise RecordDamaged(
                f"the record of the image {image_id!r} can not be read; delete it, or store it again with replace"
            ) from exc

    async def write(self, collection: str, record: ImageRecord) -> None:
        """Keep the image's record."""
        await self._objects.put(record_key(collection, record.id), record.to_bytes(), content_type=_JSON)

    async def write_content(self, collection: str, record: ImageRecord, data: bytes, thumbnail: bytes) -> None:
        """Keep the image's bytes and its thumbnail."""
        results = await asyncio.gather(
            self._objects.put(original_key(collection, record.id), data, content_type=record.content_type),
            self._objects.put(thumbnail_key(collection, record.id), thumbnail, content_type=_WEBP),
            # Where one fails the other ends first: it must not go on when the image's lock is given back.
            return_exceptions=True,
        )
        for result in results:
            if result is not None:
                raise result

    async def write_thumbnail(self, collection: str, image_id: str, thumbnail: bytes) -> None:
        """Keep the image's thumbnail alone."""
        await self._objects.put(thumbnail_key(collection, image_id), thumbnail, content_type=_WEBP)

    async def content(self, collection: str, image_id: str, sha256: str) -> bytes | None:
        """The image's bytes, if they are there and have this hash."""
        try:
            data = await self._objects.get(original_key(collection, image_id))
        except ObjectMissing:
            return None
        return data if await asyncio.to_thread(content_hash, data) == sha256 else None

    async def any_original(self, collection: str, image_id: str) -> bytes:
        """The bytes that lie there, whatever they are; ObjectMissing if none do."""
        return await self._objects.get(original_key(collection, image_id))

    async def original(self, collection: str, record: ImageRecord) -> bytes:
        """The bytes that the record is about; OriginalLost if they are missing or others."""
        data = await self.content(collection, record.id, record.original_sha256)
        if data is None:
            raise OriginalLost(
                f"the bytes of the image {record.id!r} are missing or are not those it was stored with; store it again"
            )
        return data

    async def segments(self, collection: str, image_id: str) -> tuple[Segment, ...]:
        """The image's segments with masks, without vectors; none where none are stored."""
        try:
            data = await self._objects.get(segments_key(collection, image_id))
            return SegmentsRecord.model_validate_json(data).to_segments()
        except ObjectMissing:
            return ()
        except ValidationError as exc:
            raise Internal(f"the segments of the image {image_id!r} can not be read; store the image again") from exc

    async def write_segments(self, collection: str, image_id: str, segments: tuple[Segment, ...]) -> None:
        """Keep the image's segments; each needs its mask."""
        data = SegmentsRecord.of(segments).to_bytes()
        await self._objects.put(segments_key(collection, image_id), data, content_type=_JSON)

    async def delete_segments(self, collection: str, image_id: str) -> None:
        """Remove the image's segments alone."""
        await self._objects.delete(segments_key(collection, image_id))

    async def delete(self, collection: str, image_id: str) -> None:
        """Remove everything of the image but its marker."""
        await self._objects.delete_prefix(image_key(collection, image_id))

    async def addresses(self, collection: str, image_id: str) -> tuple[str, str]:
        """Presigned addresses of the original and of the thumbnail."""
        original, thumbnail = await asyncio.gather(
            self._objects.presign(original_key(collection, image_id)),
            self._objects.presign(thumbnail_key(collection, image_id)),
        )
        return original, thumbnail
