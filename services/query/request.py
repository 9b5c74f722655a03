"""Reads and checks a SearchRequest: every error names the field at fault and what would be right."""

import math
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from google.protobuf.message import Message

from saccade.query.v1 import query_service_pb2 as pb
from services.common.domain import Lane
from services.common.errors import InvalidArgument
from services.common.images import ImageLimits
from services.common.records import check_collection_name
from services.common.vectors import Consistency, FilterTarget, SearchParams, compile_filter
from services.query.domain import Mode, QueryPart, SearchQuery
from services.query.paging import MAX_DEPTH, read_token
from services.query.projection import Method
from services.query.ranking import Fusion
from services.query.request_parts import (
    MAX_PARTS,
    MAX_TEXT,
    read_part,
    read_parts,
    read_relations,
    read_texts,
    refuse_positions_without_segments,
    with_modifiers,
)

__all__ = ["ProjectionQuery", "is_bulk", "read_projection", "read_search", "read_top"]

MAX_TOP_K: Final = 100
MAX_NPROBE: Final = 65_536
DEFAULT_TOP_K: Final = 10
DEFAULT_POSITION: Final = 0.3
DEFAULT_MAP: Final = 2_000
MAX_MAP: Final = 20_000

_METHODS: Final = {
    pb.ProjectImagesRequest.METHOD_UNSPECIFIED: Method.PCA,
    pb.ProjectImagesRequest.METHOD_PCA: Method.PCA,
    pb.ProjectImagesRequest.METHOD_UMAP: Method.UMAP,
}
_MODES: Final = {
    pb.SEARCH_MODE_UNSPECIFIED: Mode.HYBRID,
    pb.SEARCH_MODE_WHOLE: Mode.WHOLE,
    pb.SEARCH_MODE_SEGMENT: Mode.SEGMENT,
    pb.SEARCH_MODE_HYBRID: Mode.HYBRID,
    pb.SEARCH_MODE_TAGS: Mode.TAGS,
}
_CONSISTENCIES: Final = {
    pb.CONSISTENCY_UNSPECIFIED: Consistency.BOUNDED,
    pb.CONSISTENCY_EVENTUAL: Consistency.EVENTUAL,
    pb.CONSISTENCY_BOUNDED: Consistency.BOUNDED,
    pb.CONSISTENCY_STRONG: Consistency.STRONG,
}
_LANES: Final = {
    pb.SEARCH_LANE_UNSPECIFIED: Lane.INTERACTIVE,
    pb.SEARCH_LANE_INTERACTIVE: Lane.INTERACTIVE,
    pb.SEARCH_LANE_BULK: Lane.BULK,
}


def is_bulk(message: Message) -> bool:
    """Whether a request says that it can wait."""
    return isinstance(message, pb.SearchRequest) and message.lane == pb.SEARCH_LANE_BULK


def read_search(message: pb.SearchRequest, limits: ImageLimits) -> SearchQuery:
    """The query that a request means.

    Raises:
        InvalidArgument: a field is wrong.
    """
    collection = check_collection_name(message.collection, "collection")
    if message.mode not in _MODES:
        raise InvalidArgument("is none of WHOLE, SEGMENT, HYBRID and TAGS", field="mode")
    mode = _MODES[message.mode]
    weights = _read_weights(message, mode)
    image_where, segment_where = _read_filter(message, mode)
    top_k = read_top(message.top_k, "top_k", default=DEFAULT_TOP_K, most=MAX_TOP_K)
    for field in ("min_score", "diversity", "target_recall"):
        value = getattr(message, field)
        # Written so that NaN fails too.
        if not 0 <= value <= 1:
            raise InvalidArgument(f"needs a number in [0, 1], not {value:g}", field=field)
    title_text = _read_title_text(message, mode)
    for field in ("fold_duplicates", "diversity"):
        if mode is Mode.TAGS and getattr(message, field):
            raise InvalidArgument("compares vectors, which mode TAGS does not look at", field=field)
    if message.nprobe > MAX_NPROBE:
        raise InvalidArgument(f"is at most {MAX_NPROBE}; 0 lets the service choose", field="nprobe")
    if message.consistency not in _CONSISTENCIES:
        raise InvalidArgument("is none of EVENTUAL, BOUNDED and STRONG", field="consistency")
    if message.lane not in _LANES:
        raise InvalidArgument("is none of INTERACTIVE and BULK", field="lane")
    parts = read_parts(message, limits)
    relations = read_relations(message, parts)
    refuse_positions_without_segments(parts, relations, weights.segment)
    if not message.literal_text and weights.segment > 0:
        parts, relations = read_texts(parts, relations)
    parts = with_modifiers(message, parts)
    digest = _digest(message)
    shown = read_token(digest, message.page_token)
    return SearchQuery(
        collection=collection,
        parts=parts,
        relations=relations,
        mode=mode,
        whole_weight=weights.whole,
        segment_weight=weights.segment,
        tag_weight=weights.tag,
        title_text=title_text,
        # The message's float has seven digits.
        target_recall=round(message.target_recall, 6),
        image_where=image_where,
        segment_where=segment_where,
        top_k=max(1, min(top_k, MAX_DEPTH - len(shown))),
        shown=shown,
        position_weight=_read_position_weight(message),
        min_score=message.min_score,
        fold_duplicates=message.fold_duplicates,
        diversity=message.diversity,
        params=SearchParams(
            nprobe=message.nprobe, exact=message.exact, consistency=_CONSISTENCIES[message.consistency]
        ),
        explain=message.explain,
        include_masks=message.include_masks,
        digest=digest,
        lane=_LANES[message.lane],
    )


@dataclass(frozen=True, slots=True)
class ProjectionQuery:
    """What a map is to show: images that pass `where`, at most so many, and parts of a query, maybe none."""

    collection: str
    where: str
    max_images: int
    method: Method
    parts: tuple[QueryPart, ...]


def read_projection(message: pb.ProjectImagesRequest, limits: ImageLimits) -> ProjectionQuery:
    """The map that a request means.

    Raises:
        InvalidArgument: a field is wrong.
    """
    collection = check_collection_name(message.collection, "collection")
    if message.method not in _METHODS:
        raise InvalidArgument("is none of PCA and UMAP", field="method")
    if len(message.parts) > MAX_PARTS:
        raise InvalidArgument(f"holds at most {MAX_PARTS} parts, not {len(message.parts)}", field="parts")
    return ProjectionQuery(
        collection,
        compile_filter(message.filter, FilterTarget.IMAGES),
        read_top(message.max_images, "max_images", default=DEFAULT_MAP, most=MAX_MAP),
        _METHODS[message.method],
        tuple(read_part(i, part, limits) for i, part in enumerate(message.parts)),
    )


def read_top(value: int, field: str, *, default: int, most: int) -> int:
    """How many results are wanted: 0 for `default`."""
    if value > most:
        raise InvalidArgument(f"is at most {most}, not {value}; 0 means {default}", field=field)
    return value or default


_ALONE: Final = {
    Mode.WHOLE: Fusion(1.0, 0.0, 0.0),
    Mode.SEGMENT: Fusion(0.0, 1.0, 0.0),
    Mode.TAGS: Fusion(0.0, 0.0, 1.0),
}


def _read_weights(message: pb.SearchRequest, mode: Mode) -> Fusion:
    """What whole-image and segment similarity and tags count in this mode."""
    given, standard = message.weights, Fusion()
    whole = given.whole if given.HasField("whole") else standard.whole
    segment = given.segment if given.HasField("segment") else standard.segment
    tag = given.tag if given.HasField("tag") else standard.tag
    for name, value in (("whole", whole), ("segment", segment), ("tag", tag)):
        if not (math.isfinite(value) and value >= 0):
            raise InvalidArgument(f"needs a finite number >= 0, not {value:g}", field=f"weights.{name}")
    if whole == segment == 0:
        raise InvalidArgument("whole and segment can not both be 0; mode TAGS searches by tags alone", field="weights")
    return _ALONE.get(mode, Fusion(whole, segment, tag))


def _read_title_text(message: pb.SearchRequest, mode: Mode) -> str:
    text = message.title_text
    if len(text) > MAX_TEXT:
        raise InvalidArgument(
            f"has {len(text)} characters, at most {MAX_TEXT} are read", field="title_text", reason="TEXT_TOO_LONG"
        )
    if text and not text.strip():
        raise InvalidArgument("is blank; give words, or leave it out", field="title_text", reason="TEXT_EMPTY")
    if text and mode in {Mode.SEGMENT, Mode.TAGS}:
        raise InvalidArgument("speaks of images: use it in mode WHOLE or HYBRID", field="title_text")
    return text.strip()


def _read_filter(message: pb.SearchRequest, mode: Mode) -> tuple[str, str]:
    """Expressions over rows of images and over rows of segments.

    In HYBRID the filter speaks of images whichever way they were found; in SEGMENT of the segments themselves.
    """
    if mode is Mode.SEGMENT:
        return "", compile_filter(message.filter, FilterTarget.SEGMENTS)
    image_where = compile_filter(message.filter, FilterTarget.IMAGES)
    if mode in {Mode.WHOLE, Mode.TAGS}:
        return image_where, ""
    return image_where, compile_filter(message.filter, FilterTarget.IMAGES_OF_SEGMENTS)


def _read_position_weight(message: pb.SearchRequest) -> float:
    if not message.weights.HasField("position"):
        return DEFAULT_POSITION
    weight = message.weights.position
    # Written so that NaN fails too.
    if not 0 <= weight <= 1:
        raise InvalidArgument(f"needs a number in [0, 1], not {weight:g}", field="weights.position")
    return weight


def _digest(message: pb.SearchRequest) -> bytes:
    """Of everything that a page token holds the caller to."""
    rest = pb.SearchRequest()
    rest.CopyFrom(message)
    rest.ClearField("page_token")
    rest.ClearField("top_k")
    rest.ClearField("lane")
    return sha256(rest.SerializeToString(deterministic=True)).digest()
