"""Requests of `saccade.embedder.v1` -> domain objects, and the checks of what came; InvalidArgument names the field."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from saccade.embedder.v1 import embedder_service_pb2 as pb
from services.common.domain import Box, Lane, Mask, Point, VocabularyEntry
from services.common.errors import InvalidArgument
from services.common.messages import box_from_message, mask_from_message, points_from_messages
from services.common.tensors import from_tensor
from services.embedder.engine import AnalysisOptions

__all__ = [
    "check_count",
    "check_text",
    "is_bulk",
    "lane_of",
    "masks_of",
    "options_of",
    "prompt_of",
    "segment_vectors_of",
    "words_of",
]

MAX_TEXT_CHARACTERS: Final = 2_000
MAX_SEGMENTS: Final = 64
MAX_POINTS: Final = 64
MAX_MASKS: Final = 64
MAX_ROWS: Final = 4_096
MAX_VOCABULARY: Final = 2_000
MAX_NAME_CHARACTERS: Final = 64
MAX_TEMPLATES: Final = 16
MAX_TEMPLATE_CHARACTERS: Final = 200
LENGTH_TOLERANCE: Final = 0.01
"""A vector's length may be off by this: what is stored in half precision still counts as unit-length."""
_BULK: Final = pb.LANE_BULK
_LANES: Final = frozenset(pb.Lane.values())


def lane_of(lane: int) -> Lane:
    """A request's lane."""
    if lane not in _LANES:
        raise InvalidArgument(f"{lane} is no lane; give LANE_INTERACTIVE or LANE_BULK", field="lane")
    return Lane.BULK if lane == _BULK else Lane.INTERACTIVE


def is_bulk(request: Message) -> bool:
    """Whether a request says that it can wait."""
    return getattr(request, "lane", None) == _BULK


def check_count(items: Sequence[object], field: str, limit: int) -> None:
    """Refuse no items, and more than `limit`."""
    if not 1 <= len(items) <= limit:
        raise InvalidArgument(f"1 to {limit} {field} are taken at a time, not {len(items)}", field=field)


def check_text(text: str, field: str) -> None:
    """Refuse a text that says nothing or too much."""
    if not text.strip():
        raise InvalidArgument("the text is empty", field=field, reason="TEXT_EMPTY")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InvalidArgument(
            f"the text has {len(text):,} characters; at most {MAX_TEXT_CHARACTERS:,} are taken",
            field=field,
            reason="TEXT_TOO_LONG",
        )


def options_of(request: pb.AnalyzeImagesRequest) -> AnalysisOptions:
    """What an analysis is to give."""
    if request.max_segments > MAX_SEGMENTS:
        raise InvalidArgument(f"at most {MAX_SEGMENTS}, not {request.max_segments}", field="max_segments")
    if not (math.isfinite(request.min_area_fraction) and 0 <= request.min_area_fraction < 1):
        raise InvalidArgument(f"needs [0, 1), not {request.min_area_fraction:g}", field="min_area_fraction")
    vocabulary, templates = words_of(request)
    return AnalysisOptions(
        max_segments=request.max_segments,
        min_area_fraction=request.min_area_fraction,
        vocabulary=vocabulary,
        prompt_templates=templates,
    )


def words_of(
    request: pb.AnalyzeImagesRequest | pb.ChooseTagsRequest,
) -> tuple[tuple[VocabularyEntry, ...], tuple[str, ...]]:
    """The vocabulary and the sentences for its words; both may be empty."""
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
    vocabulary = tuple(VocabularyEntry(entry.name, entry.category) for entry in request.vocabulary)
    return vocabulary, tuple(request.prompt_templates)


def prompt_of(request: pb.SegmentAtRequest) -> tuple[list[Point], Box | None]:
    """Points and box, at least one of which says where the thing is."""
    if len(request.points) > MAX_POINTS:
        raise InvalidArgument(f"at most {MAX_POINTS} points are taken, not {len(request.points)}", field="points")
    points = points_from_messages(request.points)
    box = box_from_message(request.box) if request.HasField("box") else None
    if box is None and all(point.background for point in points):
        raise InvalidArgument("give a box, or at least one point that is not background", field="points")
    return points, box


def masks_of(request: pb.EmbedRegionsRequest, *, max_pixels: int) -> list[Mask]:
    """Masks, each with at least one pixel set."""
    if len(request.masks) > MAX_MASKS:
        raise InvalidArgument(f"at most {MAX_MASKS} masks are taken, not {len(request.masks)}", field="masks")
    return [mask_from_message(mask, f"masks[{i}]", max_pixels=max_pixels) for i, mask in enumerate(request.masks)]


def segment_vectors_of(request: pb.ChooseTagsRequest, dimension: int) -> NDArray[np.float32]:
    """Unit rows, shape [n, dimension], with an area for each."""
    vectors = from_tensor(request.vectors, field="vectors")
    if vectors.ndim != 2 or vectors.shape[1] != dimension or not 1 <= len(vectors) <= MAX_ROWS:
        raise InvalidArgument(
            f"needs the shape [n, {dimension}] with n from 1 to {MAX_ROWS:,}, not {list(vectors.shape)}",
            field="vectors.shape",
            reason="VECTOR_DIMENSION",
        )
    wrong = np.flatnonzero(np.abs(np.linalg.norm(vectors, axis=1) - 1) > LENGTH_TOLERANCE)
    if len(wrong):
        raise InvalidArgument(f"row {wrong[0]} is not of length 1", field="vectors", reason="VECTOR_LENGTH")
    if len(request.area_fractions) != len(vectors):
        raise InvalidArgument(
            f"needs one for each of the {len(vectors)} vectors, not {len(request.area_fractions)}",
            field="area_fractions",
        )
    for i, area in enumerate(request.area_fractions):
        # Written so that NaN fails too.
        if not 0 < area <= 1:
            raise InvalidArgument(f"needs (0, 1], not {area:g}", field=f"area_fractions[{i}]")
    return vectors
