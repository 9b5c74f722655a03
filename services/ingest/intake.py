"""Bytes of strangers, looked at before anything is stored."""

import asyncio
import base64
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from services.common.images import ImageInfo, ImageLimits, probe, thumbnail
from services.common.location import without_location

__all__ = ["Content", "Intake"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Content:
    """A picture that is known to decode, with what was learnt on the way; hashes in hexadecimal.

    Attributes:
        data: The bytes to keep.
        info: What their header says.
        sha256: Of the bytes as they came: the same file sent again has the same.
        stored_sha256: Of the bytes to keep; empty where they are the same.
        thumbnail: A small WebP without metadata.
    """

    data: bytes
    info: ImageInfo
    sha256: str
    stored_sha256: str
    thumbnail: bytes

    @property
    def derived_id(self) -> str:
        """The id of an image that was given none: the first 128 bits of the hash in lowercase base32."""
        return base64.b32encode(bytes.fromhex(self.sha256)[:16]).decode().rstrip("=").lower()


class Intake:
    """Checks pictures on a few threads of its own. Safe for concurrent use; close it at the end."""

    def __init__(self, limits: ImageLimits, *, thumbnail_px: int, workers: int, keep_location: bool = False) -> None:
        """Make one.

        Args:
            limits: What a picture may be.
            thumbnail_px: Longer side of a thumbnail.
            workers: Pictures at work at a time.
            keep_location: Whether pictures are kept as they came, with the places in their metadata.
        """
        self._limits = limits
        self._thumbnail_px = thumbnail_px
        self._keep_location = keep_location
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="intake")

    async def inspect(self, data: bytes, field: str = "image.data") -> Content:
        """Decode a picture to its end, without places; InvalidImage, naming `field`, if that can not be done."""
        return await self._run(partial(self._inspect, data, field))

    async def thumbnail(self, data: bytes) -> bytes:
        """A picture's thumbnail alone."""
        return await self._run(partial(thumbnail, data, self._limits, side_px=self._thumbnail_px))

    async def close(self) -> None:
        """Let go of the threads."""
        await asyncio.to_thread(self._pool.shutdown)

    async def _run(self, task: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, task)

    def _inspect(self, data: bytes, field: str) -> Content:
        info = probe(data, self._limits, field)
        kept = data if self._keep_location else without_location(data)
        # Of what is kept: it is that which must decode.
        small = thumbnail(kept, self._limits, side_px=self._thumbnail_px, field=field)
        came_as = hashlib.sha256(data).hexdigest()
        kept_as = "" if kept == data else hashlib.sha256(kept).hexdigest()
        return Content(kept, info, came_as, kept_as, small)
