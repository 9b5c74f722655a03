"""What the embedder does, free of gRPC: texts and pictures in, vectors, segments and tags out."""

import asyncio
import os
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.common.domain import Analysis, Box, Lane, Mask, ModelInfo, Point, Segment, Vector, VocabularyEntry
from services.common.errors import FailedPrecondition
from services.embedder import metrics
from services.embedder.admission import Admission
from services.embedder.crops import cut_out
from services.embedder.decode import Decoder
from services.embedder.masks import tight_box
from services.embedder.models.base import Candidate, Encoder, Segmenter
from services.embedder.queues import EncoderQueue, SegmenterQueue
from services.embedder.settings import EmbedderSettings
from services.embedder.tags import TagChooser

__all__ = ["AnalysisOptions", "Engine"]

_T = TypeVar("_T")
BACKGROUND_FRACTION: Final = 0.5
"""A segment that covers more of its picture is no thing in it but its background, and gets no tags."""
# Texts of a vocabulary enter the queue by so many at a time, so that others come between.
_VOCABULARY_CHUNK: Final = 64


@dataclass(frozen=True, slots=True)
class AnalysisOptions:
    """What an analysis is to give; 0 and empty take the settings' defaults."""

    max_segments: int = 0
    min_area_fraction: float = 0.0
    vocabulary: tuple[VocabularyEntry, ...] = ()
    prompt_templates: tuple[str, ...] = ()


class Engine:
    """One encoder, and a segmenter if there is one. Lives in one event loop.

    Every call raises Overloaded when there is no room, and DeadlineExceeded when its time runs out.
    """

    def __init__(self, settings: EmbedderSettings, encoder: Encoder, segmenter: Segmenter | None) -> None:
        self._settings = settings
        self._encoder = encoder
        threads = settings.decode_threads or len(os.sched_getaffinity(0))
        self._decoder = Decoder(settings.image_limits, threads=threads, working_px=settings.working_px)
        # Of its own: the model must not wait for pictures that are being decoded.
        self._stacking = ThreadPoolExecutor(1, thread_name_prefix="stack")
        self.encoding = EncoderQueue(encoder, self._stacking, bulk_every=settings.bulk_every)
        self.segmenting = (
            SegmenterQueue(segmenter, self._stacking, bulk_every=settings.bulk_every) if segmenter else None
        )
        self._tags = TagChooser(self._embed_vocabulary, max_vocabularies=settings.max_vocabularies)
        self._item_room = Admission(
            max_items=settings.max_waiting_items,
            max_bytes=settings.max_waiting_bytes,
            item_seconds=lambda: self.encoding.batcher.item_seconds,
        )
        self._analysis_room = Admission(
            max_items=settings.max_waiting_analyses,
            max_bytes=settings.max_waiting_bytes,
            item_seconds=lambda: self.segmenting.batcher.item_seconds if self.segmenting else 0.0,
        )
        self.info = ModelInfo(
            model=encoder.name,
            fingerprint=encoder.fingerprint,
            dimension=encoder.dimension,
            has_text=encoder.has_text,
            logit_scale=encoder.logit_scale,
            segmenter=segmenter.name if segmenter else "",
            device=encoder.device,
            precision=encoder.precision,
            max_items=settings.max_items,
            max_image_bytes=settings.max_image_bytes,
            max_image_pixels=settings.max_image_pixels,
        )

    async def start(self) -> None:
        """Begin to serve. When this returns, each model has answered, and with `warm_up` in every size of batch."""
        for queue in (self.encoding, self.segmenting):
            if queue is not None:
                queue.batcher.start()
                if self._settings.warm_up:
                    await queue.warm_up()
                await queue.check()

    async def close(self) -> None:
        """Stop; whoever still waits gets Unavailable."""
        for queue in (self.encoding, self.segmenting):
            if queue is not None:
                await queue.batcher.close()
        self._decoder.close()
        self._stacking.shutdown(wait=False, cancel_futures=True)

    async def embed_texts(self, texts: Sequence[str], lane: Lane) -> NDArray[np.float32]:
        """Unit rows, shape [texts, dimension]; FailedPrecondition where the model has no text tower."""
        if not self._encoder.has_text:
            raise FailedPrecondition(
                f"the model {self._encoder.name} has no text tower: search by an image instead, or run a CLIP model",
                reason="NO_TEXT_TOWER",
            )
        with self._item_room.admit(len(texts), sum(map(len, texts)), lane):
            return np.stack(await asyncio.gather(*(self.encoding.text(text, lane) for text in texts)))

    async def embed_images(self, images: Sequence[bytes], lane: Lane) -> list[Vector | Exception]:
        """For each encoded image its unit vector or why there is none."""
        with self._item_room.admit(len(images), sum(map(len, images)), lane):
            return await _each([self._whole(data, lane) for data in images])

    async def analyze(
        self, images: Sequence[bytes], options: AnalysisOptions, lane: Lane
    ) -> list[Analysis | Exception]:
        """For each encoded image its vector, segments (with masks, vectors and tags) and tags, or why there are none.

        Without a text tower there are no tags. FailedPrecondition where no segmenter is loaded.
        """
        segmenting = self._need_segmenter()
        with self._analysis_room.admit(len(images), sum(map(len, images)), lane):
            return await _each([self._analyze_one(segmenting, data, options, lane) for data in images])

    async def segment_at(
        self, data: bytes, points: Sequence[Point], box: Box | None, lane: Lane, *, field: str = "image"
    ) -> Segment:
        """The one segment that points or a box mean, with mask and vector; FailedPrecondition without a segmenter."""
        segmenting = self._need_segmenter()
        with self._analysis_room.admit(1, len(data), lane):
            image, _, _ = await self._decoder.working(data, lane, field=field)
            found = await segmenting.segment_at(image, points, box, lane)
            return await self._segment(image, 0, found, lane)

    async def _whole(self, data: bytes, lane: Lane) -> Vector:
        pixels = await self._decoder.pixels(data, self._encoder.preprocess, self._encoder.image_px, lane, field="")
        return await self.encoding.image(pixels, lane)

    async def _analyze_one(
        self, segmenting: SegmenterQueue, data: bytes, options: AnalysisOptions, lane: Lane
    ) -> Analysis:
        image, width, height = await self._decoder.working(data, lane, field="")
        vector, found = await asyncio.gather(
            self._whole(data, lane),
            segmenting.segment_all(
                image,
                max_segments=options.max_segments or self._settings.default_segments,
                min_area_fraction=options.min_area_fraction or self._settings.default_min_area_fraction,
                lane=lane,
            ),
        )
        segments = await asyncio.gather(*(self._segment(image, i, found[i], lane) for i in range(len(found))))
        analysis = Analysis(vector, tuple(segments), (), width, height)
        return await self._tagged(analysis, options) if options.vocabulary and self._encoder.has_text else analysis

    async def _segment(self, image: Image.Image, index: int, found: Candidate, lane: Lane) -> Segment:
        """A candidate with its box, mask and vector."""

        def prepare() -> tuple[Segment, NDArray[np.uint8]]:
            segment = Segment(
                index=index,
                box=tight_box(found.mask),
                area_fraction=float(found.mask.mean()),
                predicted_iou=found.predicted_iou,
                stability=found.stability,
                mask=Mask.from_array(found.mask),
            )
            return segment, self._encoder.preprocess(cut_out(image, found.mask))

        segment, pixels = await self._decoder.run(prepare, lane)
        return replace(segment, vector=await self.encoding.image(pixels, lane))

    async def _tagged(self, analysis: Analysis, options: AnalysisOptions) -> Analysis:
        space = await self._tags.space(options.vocabulary, options.prompt_templates)
        scale, least = self._encoder.logit_scale, self._settings.tag_min_confidence
        segments = tuple(
            replace(segment, tags=space.tags(segment.vector, logit_scale=scale, min_confidence=least))
            if segment.vector is not None and segment.area_fraction <= BACKGROUND_FRACTION
            else segment
            for segment in analysis.segments
        )
        tags = space.tags(analysis.vector, logit_scale=scale, min_confidence=least)
        return replace(analysis, segments=segments, tags=tags)

    async def _embed_vocabulary(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows: list[Vector] = []
        for start in range(0, len(texts), _VOCABULARY_CHUNK):
            chunk = texts[start : start + _VOCABULARY_CHUNK]
            rows += await asyncio.gather(*(self.encoding.text(text, Lane.INTERACTIVE) for text in chunk))
        return np.stack(rows)

    def _need_segmenter(self) -> SegmenterQueue:
        if self.segmenting is None:
            raise FailedPrecondition(
                "no segmenter is loaded; start the embedder with SACCADE_SEGMENTER set", reason="NO_SEGMENTER"
            )
        return self.segmenting


async def _each(work: Sequence[Awaitable[_T]]) -> list[_T | Exception]:
    """All of them at the same time, each with its result or its error."""

    async def one(awaitable: Awaitable[_T]) -> _T | Exception:
        try:
            return await awaitable
        except Exception as exc:
            metrics.ITEM_ERRORS.labels(getattr(exc, "reason", "INTERNAL")).inc()
            return exc

    return list(await asyncio.gather(*(one(awaitable) for awaitable in work)))
