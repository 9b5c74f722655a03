"""`saccade.embedder.v1.EmbedderService`: messages to calls of an engine and back."""

from typing import Any

import grpc

from saccade.embedder.v1 import embedder_service_pb2 as pb
from saccade.embedder.v1 import embedder_service_pb2_grpc
from services.common.domain import Analysis
from services.common.errors import InvalidArgument, Unavailable
from services.common.messages import segment_to_message, tag_to_message
from services.common.status import to_item_error
from services.common.tensors import to_tensor
from services.embedder.engine import Engine
from services.embedder.engines import Engines
from services.embedder.people import PEOPLE_METADATA
from services.embedder.requests import (
    check_count,
    check_text,
    lane_of,
    masks_of,
    options_of,
    prompt_of,
    segment_vectors_of,
    words_of,
)

__all__ = ["EmbedderServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]


class EmbedderServicer(embedder_service_pb2_grpc.EmbedderServiceServicer):
    """Answers UNAVAILABLE until it has engines."""

    def __init__(self) -> None:
        self._loaded: Engines | None = None

    def serve(self, engines: Engines) -> None:
        """Answer from now on with these."""
        self._loaded = engines

    async def GetModel(self, request: pb.GetModelRequest, context: _Context) -> pb.GetModelResponse:  # noqa: N802
        """What is loaded."""
        info = self._engine(request.model).info
        return pb.GetModelResponse(
            model=info.model,
            fingerprint=info.fingerprint,
            dimension=info.dimension,
            has_text=info.has_text,
            logit_scale=info.logit_scale,
            segmenter=info.segmenter,
            device=info.device,
            precision=info.precision,
            max_items=info.max_items,
            max_image_bytes=info.max_image_bytes,
            max_image_pixels=info.max_image_pixels,
            models=info.models,
        )

    async def EmbedTexts(self, request: pb.EmbedTextsRequest, context: _Context) -> pb.EmbedTextsResponse:  # noqa: N802
        """Vectors for texts."""
        engine = self._engine(request.model)
        check_count(request.texts, "texts", engine.info.max_items)
        for i, text in enumerate(request.texts):
            check_text(text, f"texts[{i}]")
        vectors = await engine.embed_texts(request.texts, lane_of(request.lane))
        return pb.EmbedTextsResponse(vectors=to_tensor(vectors), fingerprint=engine.info.fingerprint)

    async def EmbedImages(self, request: pb.EmbedImagesRequest, context: _Context) -> pb.EmbedImagesResponse:  # noqa: N802
        """A vector, or an error, for each image."""
        engine = self._engine(request.model)
        check_count(request.images, "images", engine.info.max_items)
        outcomes = await engine.embed_images(request.images, lane_of(request.lane))
        self._tell_of_people(context)
        results = [
            pb.EmbedImageResult(error=to_item_error(outcome, f"images[{i}]"))
            if isinstance(outcome, Exception)
            else pb.EmbedImageResult(vector=to_tensor(outcome))
            for i, outcome in enumerate(outcomes)
        ]
        return pb.EmbedImagesResponse(results=results, fingerprint=engine.info.fingerprint)

    async def AnalyzeImages(  # noqa: N802
        self, request: pb.AnalyzeImagesRequest, context: _Context
    ) -> pb.AnalyzeImagesResponse:
        """An analysis, or an error, for each image."""
        engine = self._engine(request.model)
        check_count(request.images, "images", engine.info.max_items)
        options = options_of(request)
        outcomes = await engine.analyze(request.images, options, lane_of(request.lane))
        self._tell_of_people(context)
        results = [
            pb.AnalyzeImageResult(error=to_item_error(outcome, f"images[{i}]"))
            if isinstance(outcome, Exception)
            else pb.AnalyzeImageResult(analysis=_analysis(outcome, include_masks=request.include_masks))
            for i, outcome in enumerate(outcomes)
        ]
        return pb.AnalyzeImagesResponse(results=results, fingerprint=engine.info.fingerprint)

    async def SegmentAt(self, request: pb.SegmentAtRequest, context: _Context) -> pb.SegmentAtResponse:  # noqa: N802
        """The segment that points or a box mean."""
        engine = self._engine(request.model)
        points, box = prompt_of(request)
        segment = await engine.segment_at(request.image, points, box, lane_of(request.lane))
        message = segment_to_message(segment, include_mask=True, include_vector=True)
        return pb.SegmentAtResponse(segment=message, fingerprint=engine.info.fingerprint)

    async def EmbedRegions(  # noqa: N802
        self, request: pb.EmbedRegionsRequest, context: _Context
    ) -> pb.EmbedRegionsResponse:
        """Vectors of an image and of regions on it."""
        engine = self._engine(request.model)
        masks = masks_of(request, max_pixels=engine.info.max_image_pixels)
        vector, regions = await engine.embed_regions(request.image, masks, lane_of(request.lane))
        return pb.EmbedRegionsResponse(
            vector=to_tensor(vector), regions=to_tensor(regions), fingerprint=engine.info.fingerprint
        )

    async def ChooseTags(self, request: pb.ChooseTagsRequest, context: _Context) -> pb.ChooseTagsResponse:  # noqa: N802
        """Tags for vectors."""
        engine = self._engine(request.model)
        vectors = segment_vectors_of(request, engine.info.dimension)
        vocabulary, templates = words_of(request)
        if not vocabulary:
            raise InvalidArgument("give at least one word to choose from", field="vocabulary")
        chosen = await engine.choose_tags(vectors, request.area_fractions, vocabulary, templates, lane_of(request.lane))
        results = [pb.ChosenTags(tags=[tag_to_message(tag) for tag in tags]) for tags in chosen]
        return pb.ChooseTagsResponse(results=results, fingerprint=engine.info.fingerprint)

    def _tell_of_people(self, context: _Context) -> None:
        if self._loaded is not None and self._loaded.people.are_here:
            context.set_trailing_metadata(PEOPLE_METADATA)

    def _engine(self, model: str) -> Engine:
        if self._loaded is None:
            raise Unavailable("the model is still being loaded; try again in a moment", reason="MODEL_LOADING")
        return self._loaded.named(model)


def _analysis(analysis: Analysis, *, include_masks: bool) -> pb.ImageAnalysis:
    return pb.ImageAnalysis(
        vector=to_tensor(analysis.vector),
        segments=[
            segment_to_message(segment, include_mask=include_masks, include_vector=True)
            for segment in analysis.segments
        ],
        tags=[tag_to_message(tag) for tag in analysis.tags],
        width=analysis.width,
        height=analysis.height,
    )
