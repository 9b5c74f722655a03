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

__all__ = ["Content", "Intake"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Content:
    """A picture that is known to decode, with what was learnt on the way; `sha256` in hexadecimal."""

    data: bytes
    info: ImageInfo
    sha256: str
    thumbnail: bytes

    @property
    def derived_id(self) -> str:
        """The id of an image that was given none: the first 128 bits of the hash in lowercase base32."""
        return base64.b32encode(bytes.fromhex(self.sha256)[:16]).decode().rstrip("=").lower()


class Intake:
    """Checks pictures on a few threads of its own. Safe for concurrent use; close it at the end."""

    def __init__(self, limits: ImageLimits, *, thumbnail_px: int, workers: int) -> None:
        """Make one for pictures within `limits`, whose thumbnails' longer side is `thumbnail_px`."""
        self._limits = limits
        self._thumbnail_px = thumbnail_px
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="intake")

    async def inspect(self, data: bytes, field: str = "image.data") -> Content:
        """Decode a picture to its end; InvalidImage, naming `field`, if that can not be done."""
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
        small = thumbnail(data, self._limits, side_px=self._thumbnail_px, field=field)
        return Content(data, info, hashlib.sha256(data).hexdigest(), small)
