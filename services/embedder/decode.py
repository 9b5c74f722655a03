"""Encoded pictures -> what the models take, in a pool of threads: Pillow gives up the interpreter lock as it works."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.common import images
from services.common.domain import Lane
from services.common.images import ImageLimits
from services.embedder import metrics

__all__ = ["Decoder"]

_T = TypeVar("_T")
# A JPEG is decoded to at least twice the side that the encoder looks at: against a full decoding the pixels then
# differ by 0.1 of 255 on average, at a quarter of the time for a picture of 12 megapixels.
_OVERSIZE: Final = 2


class Decoder:
    """Decodes and preprocesses; a bounded number of pictures at a time. Safe for concurrent use."""

    def __init__(self, limits: ImageLimits, *, threads: int, working_px: int) -> None:
        """Make the pool.

        Args:
            limits: What a picture may be.
            threads: Pictures of each lane decoded at a time; the lanes share the cores, not a queue.
            working_px: Longer side of the pictures that segments are cut from.
        """
        self._limits = limits
        self._working_px = working_px
        self._pools = {lane: ThreadPoolExecutor(threads, thread_name_prefix=f"decode-{lane.value}") for lane in Lane}

    async def pixels(
        self,
        data: bytes,
        preprocess: Callable[[Image.Image], NDArray[np.uint8]],
        image_px: int,
        lane: Lane,
        *,
        field: str,
    ) -> NDArray[np.uint8]:
        """A picture as the encoder wants it; InvalidImage names `field`."""

        def work() -> NDArray[np.uint8]:
            started = perf_counter()
            with images.decoded(data, self._limits, field, target_px=_OVERSIZE * image_px) as image:
                out = preprocess(image)
            metrics.DECODE_SECONDS.observe(perf_counter() - started)
            return out

        return await self.run(work, lane)

    async def working(self, data: bytes, lane: Lane, *, field: str) -> tuple[Image.Image, int, int]:
        """A picture to cut segments from, and the original's width and height; InvalidImage names `field`."""

        def work() -> tuple[Image.Image, int, int]:
            started = perf_counter()
            info = images.probe(data, self._limits, field)
            with images.decoded(data, self._limits, field, target_px=self._working_px) as image:
                if max(image.size) > self._working_px:
                    image.thumbnail((self._working_px, self._working_px), Image.Resampling.BICUBIC)
            metrics.DECODE_SECONDS.observe(perf_counter() - started)
            return image, info.width, info.height

        return await self.run(work, lane)

    async def run(self, work: Callable[[], _T], lane: Lane) -> _T:
        """Run something else that is heavy on the processor in the lane's pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pools[lane], work)

    def close(self) -> None:
        """Start nothing more; returns at once."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
