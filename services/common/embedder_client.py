"""The embedder as ingest and query see it: ndarray in and out, deadlines passed on, errors of our own tree."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from saccade.channel import BULK_METADATA, PEOPLE_KEY
from saccade.common.v1 import types_pb2
from saccade.embedder.v1 import embedder_service_pb2 as pb
from saccade.embedder.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from services.common.access.credentials import PLAIN, PeerCredentials
from services.common.deadline import time_left_s
from services.common.domain import Analysis, Box, Lane, Mask, ModelInfo, Point, Segment, Tag, Vector, VocabularyEntry
from services.common.errors import FailedPrecondition, NotFound, SaccadeError, Unavailable
from services.common.messages import box_to_message, mask_to_message, segment_from_message
from services.common.retry import FAIR_S, Guard
from services.common.rpc_client import open_channel
from services.common.status import from_item_error, from_rpc_error
from services.common.tensors import from_tensor, to_tensor

__all__ = ["EmbedderClient"]

_T = TypeVar("_T")
_UNAVAILABLE: Final = "EMBEDDER_UNAVAILABLE"
_MODEL_LOADING: Final = "MODEL_LOADING"
# How long what the embedder says of people holds.
_LATELY_S: Final = 2.0
_LANES: Final = {Lane.INTERACTIVE: pb.LANE_INTERACTIVE, Lane.BULK: pb.LANE_BULK}


class EmbedderClient:
    """Calls an embedder, or one replica of many behind a DNS name. Safe for concurrent use.

    Every call raises Unavailable, Overloaded or DeadlineExceeded as the service or the network has it, and waits no
    longer than the call being served has left. `model` names one of those that are loaded, empty the default one; any
    other raises NotFound. Where `fingerprint` is given, that and vectors of any other model raise FailedPrecondition:
    vectors of unlike models are never mixed.
    """

    def __init__(self, target: str, *, timeout_s: float, peer: PeerCredentials = PLAIN) -> None:
        """Connect in the background to a gRPC target such as `dns:///embedder:50051`; `peer`: what it is shown."""
        self._timeout_s = timeout_s
        self._people_at = -math.inf
        self._guard = Guard("embedder", where="the embedder", reason=_UNAVAILABLE)
        self._channel = open_channel(target, peer)
        self._stub = EmbedderServiceStub(self._channel)

    async def close(self) -> None:
        """Close the connections."""
        await self._channel.close()

    @property
    def people_are_here(self) -> bool:
        """Whether the embedder said lately, in answer to bulk work, that people wait for it too."""
        return time.monotonic() - self._people_at < _LATELY_S

    async def get_model(self, model: str = "") -> ModelInfo:
        """What is loaded; NotFound if that is not `model`."""
        answer = await self._call(self._stub.GetModel, pb.GetModelRequest(model=model))
        return ModelInfo(
            model=answer.model,
            fingerprint=answer.fingerprint,
            dimension=answer.dimension,
            has_text=answer.has_text,
            logit_scale=answer.logit_scale,
            segmenter=answer.segmenter,
            device=answer.device,
            precision=answer.precision,
            max_items=answer.max_items,
            max_image_bytes=answer.max_image_bytes,
            max_image_pixels=answer.max_image_pixels,
            models=tuple(answer.models),
        )

    async def embed_texts(
        self, texts: Sequence[str], *, model: str = "", lane: Lane = Lane.INTERACTIVE, fingerprint: str = ""
    ) -> Vector:
        """Unit-length rows, shape [texts, dimension]."""
        request = pb.EmbedTextsRequest(model=model, texts=texts, lane=_LANES[lane])
        answer = await self._call(self._stub.EmbedTexts, request, fingerprint)
        _check(answer.fingerprint, fingerprint)
        return from_tensor(answer.vectors, field="vectors")

    async def embed_images(
        self, images: Sequence[bytes], *, model: str = "", lane: Lane = Lane.INTERACTIVE, fingerprint: str = ""
    ) -> list[Vector | SaccadeError]:
        """For each image its vector, or why there is none."""
        request = pb.EmbedImagesRequest(model=model, images=images, lane=_LANES[lane])
        answer = await self._call(self._stub.EmbedImages, request, fingerprint)
        _check(answer.fingerprint, fingerprint)
        return [
            from_item_error(result.error) if result.HasField("error") else from_tensor(result.vector, field="vector")
            for result in answer.results
        ]

    async def analyze_images(
        self,
        images: Sequence[bytes],
        *,
        model: str = "",
        lane: Lane = Lane.INTERACTIVE,
        max_segments: int = 0,
        min_area_fraction: float = 0.0,
        vocabulary: Sequence[VocabularyEntry] = (),
        prompt_templates: Sequence[str] = (),
        fingerprint: str = "",
    ) -> list[Analysis | SaccadeError]:
        """For each image its vector and segments (with masks, vectors and tags), or why there are none."""
        request = pb.AnalyzeImagesRequest(
            model=model,
            images=images,
            lane=_LANES[lane],
            max_segments=max_segments,
            min_area_fraction=min_area_fraction,
            vocabulary=[pb.VocabularyEntry(name=entry.name, category=entry.category) for entry in vocabulary],
            include_masks=True,
            prompt_templates=prompt_templates,
        )
        answer = await self._call(self._stub.AnalyzeImages, request, fingerprint)
        _check(answer.fingerprint, fingerprint)
        return [_analysis(result) for result in answer.results]

    async def segment_at(
        self,
        image: bytes,
        *,
        points: Sequence[Point] = (),
        box: Box | None = None,
        model: str = "",
        lane: Lane = Lane.INTERACTIVE,
        fingerprint: str = "",
    ) -> Segment:
        """The one segment that points or a box mean, with mask and vector."""
        request = pb.SegmentAtRequest(
            model=model,
            image=image,
            points=[types_pb2.Point(x=point.x, y=point.y, background=point.background) for point in points],
            box=box_to_message(box) if box else None,
            lane=_LANES[lane],
        )
        answer = await self._call(self._stub.SegmentAt, request, fingerprint)
        _check(answer.fingerprint, fingerprint)
        return segment_from_message(answer.segment)

    async def embed_regions(
        self,
        image: bytes,
        masks: Sequence[Mask],
        *,
        model: str = "",
        lane: Lane = Lane.INTERACTIVE,
        fingerprint: str = "",
    ) -> tuple[Vector, NDArray[np.float32]]:
        """The image's unit vector, and unit rows [masks, dimension] of what lies under at most 64 masks.

        InvalidArgument where the image can not be used; no segmenter is needed.
        """
        request = pb.EmbedRegionsRequest(
            model=model, image=image, masks=[mask_to_message(mask) for mask in masks], lane=_LANES[lane]
        )
        answer = await self._call(self._stub.EmbedRegions, request, fingerprint)
        _check(answer.fingerprint, fingerprint)
        return from_tensor(answer.vector, field="vector"), from_tensor(answer.regions, field="regions")

    async def choose_tags(
        self,
        vectors: NDArray[np.float32],
        areas: Sequence[float],
        vocabulary: Sequence[VocabularyEntry],
        templates: Sequence[str] = (),
        *,
        model: str = "",
        lane: Lane = Lane.INTERACTIVE,
        fingerprint: str = "",
    ) -> list[tuple[Tag, ...]]:
        """For each row of `vectors` the tags that an analysis would give it, most confident first.

        Args:
            vectors: Unit rows, shape [n, dimension]; at most 4,096. For none nobody is asked.
            areas: The share of its image that each covers, in (0, 1]; 1 is an image as a whole.
            vocabulary: Words to choose from, at least one.
            templates: Sentences for the words; none: the embedder's own.
            model: Its name.
            lane: Its queue.
            fingerprint: That the model must have.
        """
        if not len(vectors):
            return []
        request = pb.ChooseTagsRequest(
            model=model,
            vectors=to_tensor(vectors),
            area_fractions=areas,
            vocabulary=[pb.VocabularyEntry(name=entry.name, category=entry.category) for entry in vocabulary],
            prompt_templates=templates,
            lane=_LANES[lane],
        )
        answer = await self._call(self._stub.ChooseTags, request, fingerprint)
        _check(answer.fingerprint, fingerprint)
        return [tuple(Tag(tag.name, tag.category, tag.confidence) for tag in one.tags) for one in answer.results]

    async def _call(
        self, method: Callable[..., grpc.aio.UnaryUnaryCall[Any, _T]], request: Any, fingerprint: str = ""
    ) -> _T:
        quick = isinstance(request, pb.EmbedTextsRequest | pb.GetModelRequest)
        bulk = getattr(request, "lane", None) == pb.LANE_BULK

        async def attempt() -> _T:
            try:
                call = method(request, timeout=time_left_s(self._timeout_s), metadata=BULK_METADATA if bulk else None)
                answer = await call
                if bulk and any(key == PEOPLE_KEY for key, _ in await call.trailing_metadata()):
                    self._people_at = time.monotonic()
                return answer
            except grpc.RpcError as exc:
                raise _error(exc, fingerprint) from exc

        # The channel itself repeats what never reached an embedder. A picture may take long, by right.
        return await self._guard.call(attempt, fair_s=FAIR_S if quick else self._timeout_s)


def _error(error: grpc.RpcError, fingerprint: str) -> SaccadeError:
    """What a call failed with; that a collection's model is not loaded is no matter of the caller's request."""
    told = from_rpc_error(error, "embedder")
    if isinstance(told, Unavailable) and told.reason in {Unavailable.default_reason, _MODEL_LOADING}:
        return Unavailable(told.message, reason=_UNAVAILABLE, retry_after_s=told.retry_after_s or 1.0)
    if fingerprint and isinstance(told, NotFound) and told.reason == "MODEL_NOT_LOADED":
        return FailedPrecondition(
            f"{told.message}; add the collection's model to its SACCADE_MODEL, or make another collection",
            reason="MODEL_MISMATCH",
        )
    return told


def _check(got: str, wanted: str) -> None:
    if wanted and got != wanted:
        raise FailedPrecondition(
            f"the collection's vectors come from the model with fingerprint {wanted}, the embedder now has {got}; "
            "run an embedder with the collection's model, or make another collection and store the images there",
            reason="MODEL_MISMATCH",
        )


def _analysis(result: pb.AnalyzeImageResult) -> Analysis | SaccadeError:
    if result.HasField("error"):
        return from_item_error(result.error)
    analysis = result.analysis
    return Analysis(
        vector=from_tensor(analysis.vector, field="vector"),
        segments=tuple(segment_from_message(segment) for segment in analysis.segments),
        tags=tuple(Tag(tag.name, tag.category, tag.confidence) for tag in analysis.tags),
        width=analysis.width,
        height=analysis.height,
    )
