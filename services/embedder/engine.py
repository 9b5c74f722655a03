"""What the embedder does, free of gRPC: texts and pictures in, vectors, segments and tags out."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.common.domain import Analysis, Box, Lane, Mask, ModelInfo, Point, Segment, Tag, Vector, VocabularyEntry
from services.common.errors import FailedPrecondition
from services.embedder import metrics
from services.embedder.crops import cut_out
from services.embedder.masks import fit_mask, tight_box
from services.embedder.models.base import Candidate, Encoder
from services.embedder.queues import EncoderQueue, SegmenterQueue
from services.embedder.shared import Shared
from services.embedder.tags import TagChooser, TagSpace

__all__ = ["AnalysisOptions", "Engine"]

_T = TypeVar("_T")
BACKGROUND_FRACTION: Final = 0.5
"""A segment that covers more of its picture is no thing in it but its background, and gets no tags."""
WHOLE_FRACTION: Final = 1.0
"""What covers all of its picture is the picture itself, which gets tags."""
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
    """One encoder over what the embedder's models share. Lives in one event loop.

    Every call raises Overloaded when there is no room, and DeadlineExceeded when its time runs out.
    """

    def __init__(self, shared: Shared, encoder: Encoder, models: tuple[str, ...]) -> None:
        """Make an engine.

        Args:
            shared: Of all models.
            encoder: The model.
            models: Names of all models that are loaded, the default one first.
        """
        settings = shared.settings
        self._settings = settings
        self._shared = shared
        self._decoder = shared.decoder
        self._encoder = encoder
        self.encoding = EncoderQueue(encoder, shared.stacking, bulk_every=settings.bulk_every, people=shared.people)
        self._tags = TagChooser(self._embed_vocabulary, max_vocabularies=settings.max_vocabularies)
        self.info = ModelInfo(
            model=encoder.name,
            fingerprint=encoder.fingerprint,
            dimension=encoder.dimension,
            has_text=encoder.has_text,
            logit_scale=encoder.logit_scale,
            segmenter=shared.segmenter_name,
            device=encoder.device,
            precision=encoder.precision,
            max_items=settings.max_items,
            max_image_bytes=settings.max_image_bytes,
            max_image_pixels=settings.max_image_pixels,
            models=models,
        )

    async def embed_texts(self, texts: Sequence[str], lane: Lane) -> NDArray[np.float32]:
        """Unit rows, shape [texts, dimension]; FailedPrecondition where the model has no text tower."""
        self._need_text("search by an image instead, or run a CLIP model")
        with self._shared.item_room.admit(len(texts), sum(map(len, texts)), lane):
            return np.stack(await asyncio.gather(*(self.encoding.text(text, lane) for text in texts)))

    async def embed_images(self, images: Sequence[bytes], lane: Lane) -> list[Vector | Exception]:
        """For each encoded image its unit vector or why there is none."""
        with self._shared.item_room.admit(len(images), sum(map(len, images)), lane):
            return await _each([self._whole(data, lane) for data in images])

    async def analyze(
        self, images: Sequence[bytes], options: AnalysisOptions, lane: Lane
    ) -> list[Analysis | Exception]:
        """For each encoded image its vector, segments (with masks, vectors and tags) and tags, or why there are none.

        Without a text tower there are no tags. FailedPrecondition where no segmenter is loaded.
        """
        segmenting = self._shared.need_segmenter()
        with self._shared.analysis_room.admit(len(images), sum(map(len, images)), lane):
            return await _each([self._analyze_one(segmenting, data, options, lane) for data in images])

    async def segment_at(
        self, data: bytes, points: Sequence[Point], box: Box | None, lane: Lane, *, field: str = "image"
    ) -> Segment:
        """The one segment that points or a box mean, with mask and vector; FailedPrecondition without a segmenter."""
        segmenting = self._shared.need_segmenter()
        with self._shared.analysis_room.admit(1, len(data), lane):
            image, _, _ = await self._decoder.working(data, lane, field=field)
            found = await segmenting.segment_at(image, points, box, lane)
            return await self._segment(image, 0, found, lane)

    async def embed_regions(
        self, data: bytes, masks: Sequence[Mask], lane: Lane, *, field: str = "image"
    ) -> tuple[Vector, NDArray[np.float32]]:
        """The image's unit vector, and unit rows [masks, dimension] of the things under masks, as analyses make them.

        Raises:
            InvalidImage: the image can not be used; names `field`.
            InvalidArgument: a mask is not in the image's proportions; names `masks[i]`.
        """
        with self._shared.analysis_room.admit(1, len(data), lane):
            image, _, _ = await self._decoder.working(data, lane, field=field)

            async def region(index: int, mask: Mask) -> Vector:
                def prepare() -> NDArray[np.uint8]:
                    fitted = fit_mask(mask, image.size, f"masks[{index}]")
                    return self._encoder.preprocess(cut_out(image, fitted))

                return await self.encoding.image(await self._decoder.run(prepare, lane), lane)

            vector, *regions = await asyncio.gather(
                self._whole(data, lane, field=field), *(region(i, mask) for i, mask in enumerate(masks))
            )
        return vector, np.stack(regions) if regions else np.zeros((0, len(vector)), np.float32)

    async def choose_tags(
        self,
        vectors: NDArray[np.float32],
        area_fractions: Sequence[float],
        vocabulary: Sequence[VocabularyEntry],
        templates: Sequence[str],
        lane: Lane,
    ) -> list[tuple[Tag, ...]]:
        """Tags for unit rows [n, dimension] that cover such shares of their images, as `analyze` gives them.

        FailedPrecondition where the model has no text tower.
        """
        self._need_text("its collections have no tags of its making; set them yourself, or use a CLIP model")
        with self._shared.item_room.admit(1, vectors.nbytes, lane):
            space = await self._tags.space(vocabulary, templates)

            def choose() -> list[tuple[Tag, ...]]:
                return [self._choose(space, row, area) for row, area in zip(vectors, area_fractions, strict=True)]

            # Thousands of rows against thousands of words are too much for the event loop.
            return await self._decoder.run(choose, lane)

    async def _whole(self, data: bytes, lane: Lane, *, field: str = "") -> Vector:
        pixels = await self._decoder.pixels(data, self._encoder.preprocess, self._encoder.image_px, lane, field=field)
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
        segments = tuple(
            replace(segment, tags=self._choose(space, segment.vector, segment.area_fraction))
            if segment.vector is not None
            else segment
            for segment in analysis.segments
        )
        return replace(analysis, segments=segments, tags=self._choose(space, analysis.vector, WHOLE_FRACTION))

    def _choose(self, space: TagSpace, vector: Vector, area_fraction: float) -> tuple[Tag, ...]:
        if BACKGROUND_FRACTION < area_fraction < WHOLE_FRACTION:
            return ()
        return space.tags(
            vector, logit_scale=self._encoder.logit_scale, min_confidence=self._settings.tag_min_confidence
        )

    async def _embed_vocabulary(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows: list[Vector] = []
        for start in range(0, len(texts), _VOCABULARY_CHUNK):
            chunk = texts[start : start + _VOCABULARY_CHUNK]
            rows += await asyncio.gather(*(self.encoding.text(text, Lane.INTERACTIVE) for text in chunk))
        return np.stack(rows)

    def _need_text(self, remedy: str) -> None:
        if not self._encoder.has_text:
            raise FailedPrecondition(
                f"the model {self._encoder.name} has no text tower: {remedy}", reason="NO_TEXT_TOWER"
            )


async def _each(work: Sequence[Awaitable[_T]]) -> list[_T | Exception]:
    """All of them at the same time, each with its result or its error."""

    async def one(awaitable: Awaitable[_T]) -> _T | Exception:
        try:
            return await awaitable
        except Exception as exc:
            metrics.ITEM_ERRORS.labels(getattr(exc, "reason", "INTERNAL")).inc()
            return exc

    return list(await asyncio.gather(*(one(awaitable) for awaitable in work)))
