"""`saccade.embedder.v1.EmbedderService`: messages to calls of the engine and back, and the checks of what came."""

import math
from collections.abc import Sequence
from typing import Any, Final

import grpc

from saccade.embedder.v1 import embedder_service_pb2 as pb
from saccade.embedder.v1 import embedder_service_pb2_grpc
from services.common.domain import Analysis, Lane, VocabularyEntry
from services.common.errors import InvalidArgument, NotFound, Unavailable
from services.common.messages import box_from_message, points_from_messages, segment_to_message, tag_to_message
from services.common.status import to_item_error
from services.common.tensors import to_tensor
from services.embedder.engine import AnalysisOptions, Engine

__all__ = ["EmbedderServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]

MAX_TEXT_CHARACTERS: Final = 2_000
MAX_SEGMENTS: Final = 64
MAX_POINTS: Final = 64
MAX_VOCABULARY: Final = 2_000
MAX_NAME_CHARACTERS: Final = 64
MAX_TEMPLATES: Final = 16
MAX_TEMPLATE_CHARACTERS: Final = 200
_BULK: Final = pb.LANE_BULK
_LANES: Final = frozenset(pb.Lane.values())


class EmbedderServicer(embedder_service_pb2_grpc.EmbedderServiceServicer):
    """Answers UNAVAILABLE until it has an engine."""

    def __init__(self) -> None:
        self._loaded: Engine | None = None

    def serve(self, engine: Engine) -> None:
        """Answer from now on with this engine."""
        self._loaded = engine

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
        )

    async def EmbedTexts(self, request: pb.EmbedTextsRequest, context: _Context) -> pb.EmbedTextsResponse:  # noqa: N802
        """Vectors for texts."""
        engine = self._engine(request.model)
        _check_count(request.texts, "texts", engine.info.max_items)
        for i, text in enumerate(request.texts):
            _check_text(text, f"texts[{i}]")
        vectors = await engine.embed_texts(request.texts, _lane(request.lane))
        return pb.EmbedTextsResponse(vectors=to_tensor(vectors), fingerprint=engine.info.fingerprint)

    async def EmbedImages(self, request: pb.EmbedImagesRequest, context: _Context) -> pb.EmbedImagesResponse:  # noqa: N802
        """A vector, or an error, for each image."""
        engine = self._engine(request.model)
        _check_count(request.images, "images", engine.info.max_items)
        outcomes = await engine.embed_images(request.images, _lane(request.lane))
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
        _check_count(request.images, "images", engine.info.max_items)
        options = _options(request)
        outcomes = await engine.analyze(request.images, options, _lane(request.lane))
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
        if len(request.points) > MAX_POINTS:
            raise InvalidArgument(f"at most {MAX_POINTS} points are taken, not {len(request.points)}", field="points")
        points = points_from_messages(request.points)
        box = box_from_message(request.box) if request.HasField("box") else None
        if box is None and all(point.background for point in points):
            raise InvalidArgument("give a box, or at least one point that is not background", field="points")
        segment = await engine.segment_at(request.image, points, box, _lane(request.lane))
        message = segment_to_message(segment, include_mask=True, include_vector=True)
        return pb.SegmentAtResponse(segment=message, fingerprint=engine.info.fingerprint)

    def _engine(self, model: str) -> Engine:
        if self._loaded is None:
            raise Unavailable("the model is still being loaded; try again in a moment", reason="MODEL_LOADING")
        name = self._loaded.info.model
        if model and model != name:
            raise NotFound(
                f"the model {model!r} is not loaded here; this embedder runs {name!r}",
                field="model",
                reason="MODEL_NOT_LOADED",
            )
        return self._loaded


def _lane(lane: int) -> Lane:
    if lane not in _LANES:
        raise InvalidArgument(f"{lane} is no lane; give LANE_INTERACTIVE or LANE_BULK", field="lane")
    return Lane.BULK if lane == _BULK else Lane.INTERACTIVE


def _check_count(items: Sequence[object], field: str, limit: int) -> None:
    if not 1 <= len(items) <= limit:
        raise InvalidArgument(f"1 to {limit} {field} are taken at a time, not {len(items)}", field=field)


def _check_text(text: str, field: str) -> None:
    if not text.strip():
        raise InvalidArgument("the text is empty", field=field, reason="TEXT_EMPTY")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InvalidArgument(
            f"the text has {len(text):,} characters; at most {MAX_TEXT_CHARACTERS:,} are taken",
            field=field,
            reason="TEXT_TOO_LONG",
        )


def _options(request: pb.AnalyzeImagesRequest) -> AnalysisOptions:
    if request.max_segments > MAX_SEGMENTS:
        raise InvalidArgument(f"at most {MAX_SEGMENTS}, not {request.max_segments}", field="max_segments")
    if not (math.isfinite(request.min_area_fraction) and 0 <= request.min_area_fraction < 1):
        raise InvalidArgument(f"needs [0, 1), not {request.min_area_fraction:g}", field="min_area_fraction")
    if len(request.vocabulary) > MAX_VOCABULARY:
        raise InvalidArgument(f"at most {MAX_VOCABULARY:,} words, not {len(request.vocabulary):,}", field="vocabulary")
    for i, entry in enumerate(request.vocabulary):
        if not entry.name.strip() or len(entry.name) > MAX_NAME_CHARACTERS:
            raise InvalidArgument(f"needs 1 to {MAX_NAME_CHARACTERS} characters", field=f"vocabulary[{i}].name")
        if len(entry.category) > MAX_NAME_CHARACTERS:
            raise InvalidArgument(f"at most {MAX_NAME_CHARACTERS} characters", field=f"vocabulary[{i}].category")
    if len(request.prompt_templates) > MAX_TEMPLATES:
        raise InvalidArgument(f"at most {MAX_TEMPLATES} sentences", field="prompt_templates")
    for i, template in enumerate(request.prompt_templates):
        if template.count("{}") != 1 or len(template) > MAX_TEMPLATE_CHARACTERS:
            raise InvalidArgument(
                f"needs one {{}} for the word, and at most {MAX_TEMPLATE_CHARACTERS} characters",
                field=f"prompt_templates[{i}]",
            )
    return AnalysisOptions(
        max_segments=request.max_segments,
        min_area_fraction=request.min_area_fraction,
        vocabulary=tuple(VocabularyEntry(entry.name, entry.category) for entry in request.vocabulary),
        prompt_templates=tuple(request.prompt_templates),
    )


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
