"""A model with its queue and its thread: single items in, single results out."""

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image

from services.common.deadline import time_left_s
from services.common.domain import Box, Lane, Point, Vector
from services.common.errors import Internal
from services.embedder.batcher import Batcher, Kind
from services.embedder.models.base import Candidate, Encoder, Segmenter
from services.embedder.owner import OwnerThread
from services.embedder.people import People

__all__ = ["EncoderQueue", "SegmenterQueue"]

_log = structlog.get_logger(__name__)

MIN_AGREEMENT: Final = 0.9999
"""Least cosine between the vectors of a picture alone and among others."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class EncoderQueue:
    """Feeds an encoder. Waits raise as `Batcher.submit` does."""

    def __init__(self, encoder: Encoder, pool: Executor, *, bulk_every: int, people: People | None = None) -> None:
        self._encoder = encoder
        self.batcher = Batcher(encoder.name, OwnerThread(encoder.name), pool, bulk_every=bulk_every, people=people)
        self._images: Kind[NDArray[np.uint8], Vector] = Kind(
            "image", encoder.stack, lambda batch: list(encoder.embed_images(batch)), encoder.max_batch
        )
        self._texts: Kind[str, Vector] = Kind(
            "text", encoder.tokenize, lambda batch: list(encoder.embed_texts(batch)), encoder.max_batch
        )

    async def image(self, pixels: NDArray[np.uint8], lane: Lane) -> Vector:
        """Unit vector of a preprocessed picture."""
        return _finite(await self.batcher.submit(self._images, pixels, lane, time_left_s=time_left_s(math.inf)))

    async def text(self, text: str, lane: Lane) -> Vector:
        """Unit vector of a text."""
        return _finite(await self.batcher.submit(self._texts, text, lane, time_left_s=time_left_s(math.inf)))

    async def check(self) -> None:
        """A real inference; raises if it fails."""
        await self.image(self._encoder.preprocess(_test_picture()), Lane.INTERACTIVE)

    async def warm_up(self) -> None:
        """Compute each size of batch once (powers of two, and the largest), and see that size changes no result.

        Low precision on some hardware rounds differently in batches of different sizes; that is logged as a warning
        where it is more than vectors may depend on their neighbours.
        """
        pixels = self._encoder.preprocess(_test_picture())
        largest = self._encoder.max_batch
        alone = await self.image(pixels, Lane.INTERACTIVE)
        agreement = 1.0
        for size in [*(1 << i for i in range(largest.bit_length()) if 1 << i < largest), largest]:
            vectors = await asyncio.gather(*(self.image(pixels, Lane.INTERACTIVE) for _ in range(size)))
            agreement = min(agreement, float((np.stack(vectors) @ alone).min()))
            if self._encoder.has_text:
                await asyncio.gather(*(self.text("a photo", Lane.INTERACTIVE) for _ in range(size)))
        if agreement < MIN_AGREEMENT:
            _log.warning(
                "vectors depend on the size of their batch; set SACCADE_EMBEDDER_PRECISION=float32 to mend it",
                cosine=agreement,
                wanted=MIN_AGREEMENT,
                precision=self._encoder.precision,
            )


@dataclass(frozen=True, slots=True, eq=False)
class _AllOf:
    image: Image.Image
    max_segments: int
    min_area_fraction: float


@dataclass(frozen=True, slots=True, eq=False)
class _At:
    image: Image.Image
    points: tuple[Point, ...]
    box: Box | None


class SegmenterQueue:
    """Feeds a segmenter, one picture at a time. Waits raise as `Batcher.submit` does."""

    def __init__(self, segmenter: Segmenter, pool: Executor, *, bulk_every: int, people: People | None = None) -> None:
        self.batcher = Batcher("segmenter", OwnerThread("segmenter"), pool, bulk_every=bulk_every, people=people)

        def segment_all(wanted: _AllOf) -> list[Candidate]:
            return segmenter.segment_all(
                wanted.image, max_segments=wanted.max_segments, min_area_fraction=wanted.min_area_fraction
            )

        def segment_at(wanted: _At) -> Candidate:
            return segmenter.segment_at(wanted.image, wanted.points, wanted.box)

        self._all: Kind[_AllOf, list[Candidate]] = Kind("segment_all", list, _for_each(segment_all), 1)
        self._at: Kind[_At, Candidate] = Kind("segment_at", list, _for_each(segment_at), 1)

    async def segment_all(
        self, image: Image.Image, *, max_segments: int, min_area_fraction: float, lane: Lane
    ) -> list[Candidate]:
        """See Segmenter.segment_all."""
        wanted = _AllOf(image, max_segments, min_area_fraction)
        return await self.batcher.submit(self._all, wanted, lane, time_left_s=time_left_s(math.inf))

    async def segment_at(self, image: Image.Image, points: Sequence[Point], box: Box | None, lane: Lane) -> Candidate:
        """See Segmenter.segment_at."""
        wanted = _At(image, tuple(points), box)
        return await self.batcher.submit(self._at, wanted, lane, time_left_s=time_left_s(math.inf))

    async def check(self) -> None:
        """A real inference; raises if it fails."""
        await self.segment_at(_test_picture(), [Point(0.5, 0.5)], None, Lane.INTERACTIVE)

    async def warm_up(self) -> None:
        """Take one picture apart."""
        await self.segment_all(_test_picture(), max_segments=1, min_area_fraction=0.01, lane=Lane.INTERACTIVE)


def _for_each(work: Callable[[_In], _Out]) -> Callable[[Sequence[_In]], list[_Out]]:
    return lambda items: [work(item) for item in items]


def _finite(vector: Vector) -> Vector:
    if not np.isfinite(vector).all():
        raise Internal("the model gave a vector that is not finite", reason="VECTOR_NOT_FINITE")
    return vector


def _test_picture() -> Image.Image:
    """A gradient with a square on it: nothing in it is flat enough to make a model divide by zero."""
    ramp = np.linspace(0, 200, 64, dtype=np.uint8)
    pixels = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 90, np.uint8)], 2)
    pixels[20:44, 20:44] = (230, 40, 40)
    return Image.fromarray(pixels)
