"""Reads the parts of a query: what to look for, where it should be, how parts should stand to each other."""

import math
from dataclasses import replace
from typing import Final

import numpy as np

from saccade.query.v1 import query_service_pb2 as pb
from services.common.domain import Vector
from services.common.errors import InvalidArgument
from services.common.images import ImageLimits, probe
from services.common.messages import box_from_message, points_from_messages
from services.common.records import check_image_id
from services.common.tensors import from_tensor
from services.query.domain import (
    Address,
    Content,
    OwnVector,
    Picture,
    Place,
    Placement,
    QueryPart,
    Region,
    Relation,
    RelationKind,
    Stored,
    StoredSegment,
    Text,
    Upload,
)
from services.query.grammar import read_text

__all__ = [
    "MAX_PARTS",
    "MAX_TEXT",
    "read_part",
    "read_parts",
    "read_relations",
    "read_texts",
    "refuse_positions_without_segments",
    "with_modifiers",
]

MAX_PARTS: Final = 16
MAX_TEXT: Final = 2_000
MAX_POINTS: Final = 64
MAX_COUNT: Final = 64
MAX_RELATIONS: Final = 16

_PLACES: Final = {
    pb.Placement.PLACE_LEFT: Place.LEFT,
    pb.Placement.PLACE_RIGHT: Place.RIGHT,
    pb.Placement.PLACE_TOP: Place.TOP,
    pb.Placement.PLACE_BOTTOM: Place.BOTTOM,
    pb.Placement.PLACE_CENTER: Place.CENTER,
}
_RELATIONS: Final = {
    pb.Relation.KIND_LEFT_OF: RelationKind.LEFT_OF,
    pb.Relation.KIND_RIGHT_OF: RelationKind.RIGHT_OF,
    pb.Relation.KIND_ABOVE: RelationKind.ABOVE,
    pb.Relation.KIND_BELOW: RelationKind.BELOW,
    pb.Relation.KIND_NEAR: RelationKind.NEAR,
    pb.Relation.KIND_INSIDE: RelationKind.INSIDE,
}


def read_parts(message: pb.SearchRequest, limits: ImageLimits) -> tuple[QueryPart, ...]:
    """The request's parts, of which one has a positive weight; none where it asks for a title, or for a filter by TAGS.

    Raises:
        InvalidArgument: a field is wrong; so do the others here.
    """
    if not message.parts and (
        message.title_text or (message.mode == pb.SEARCH_MODE_TAGS and message.filter.WhichOneof("kind"))
    ):
        return ()
    if not 1 <= len(message.parts) <= MAX_PARTS:
        raise InvalidArgument(f"needs 1 to {MAX_PARTS} parts, not {len(message.parts)}", field="parts")
    parts = tuple(read_part(i, part, limits) for i, part in enumerate(message.parts))
    if all(part.weight == 0 for part in parts):
        raise InvalidArgument("at least one part needs a weight other than 0", field="parts")
    if all(part.weight <= 0 for part in parts):
        raise InvalidArgument(
            "at least one part needs a positive weight: away from something is no direction by itself", field="parts"
        )
    return parts


def read_part(index: int, part: pb.Part, limits: ImageLimits) -> QueryPart:
    """One part, without its modifier."""
    field = f"parts[{index}]"
    weight = part.weight if part.HasField("weight") else 1.0
    if not math.isfinite(weight):
        raise InvalidArgument(f"needs a finite number, not {weight:g}", field=f"{field}.weight")
    if part.count > MAX_COUNT:
        raise InvalidArgument(f"is at most {MAX_COUNT}; 0 is any number", field=f"{field}.count")
    placement = _read_placement(part.placement, f"{field}.placement") if part.HasField("placement") else None
    for name, present in (("placement", placement is not None), ("count", part.count > 0)):
        if present and weight <= 0:
            raise InvalidArgument(
                "goes with a positive weight only: what is unwanted has no place", field=f"{field}.{name}"
            )
    return QueryPart(index, _read_content(part, field, limits), weight, placement, part.count)


def _read_placement(placement: pb.Placement, field: str) -> Placement:
    kind = placement.WhichOneof("where")
    if kind == "box":
        return Placement(box=box_from_message(placement.box, f"{field}.box"))
    if kind is None or placement.place not in _PLACES:
        raise InvalidArgument("needs a place (LEFT, RIGHT, TOP, BOTTOM or CENTER) or a box", field=field)
    return Placement(_PLACES[placement.place])


def read_relations(message: pb.SearchRequest, parts: tuple[QueryPart, ...]) -> tuple[Relation, ...]:
    """The relations between the parts."""
    if len(message.relations) > MAX_RELATIONS:
        raise InvalidArgument(f"holds at most {MAX_RELATIONS}, not {len(message.relations)}", field="relations")
    relations = []
    for i, relation in enumerate(message.relations):
        field = f"relations[{i}]"
        if relation.kind not in _RELATIONS:
            raise InvalidArgument("is none of LEFT_OF, RIGHT_OF, ABOVE, BELOW, NEAR and INSIDE", field=f"{field}.kind")
        for name, index in (("first", relation.first), ("second", relation.second)):
            if index >= len(parts):
                raise InvalidArgument(f"is no index of a part; there are {len(parts)}", field=f"{field}.{name}")
            if parts[index].weight <= 0:
                raise InvalidArgument("names a part without a positive weight", field=f"{field}.{name}")
        if relation.first == relation.second:
            raise InvalidArgument("names the part itself; a relation is between two", field=f"{field}.second")
        relations.append(Relation(relation.first, _RELATIONS[relation.kind], relation.second))
    return tuple(relations)


def refuse_positions_without_segments(
    parts: tuple[QueryPart, ...], relations: tuple[Relation, ...], segment_weight: float
) -> None:
    """Places, relations and counts are those of segments."""
    if segment_weight > 0:
        return
    asked = [(f"parts[{part.index}].placement", part.placement is not None) for part in parts]
    asked += [(f"parts[{part.index}].count", part.count > 0) for part in parts] + [("relations", bool(relations))]
    for field, present in asked:
        if present:
            raise InvalidArgument("needs segments: mode SEGMENT or HYBRID, with a segment weight", field=field)


def read_texts(
    parts: tuple[QueryPart, ...], relations: tuple[Relation, ...]
) -> tuple[tuple[QueryPart, ...], tuple[Relation, ...]]:
    """What texts say of place, relation and count, for those where the request says nothing of it itself."""
    related = {index for relation in relations for index in (relation.first, relation.second)}
    read, extra, more = list(parts), list[QueryPart](), list(relations)
    for at, part in enumerate(parts):
        if not isinstance(part.content, Text) or part.weight <= 0 or part.placement or part.count or at in related:
            continue
        field, sentence = part.content.field, read_text(part.content.text)
        first = sentence.first
        placement = Placement(first.place) if first.place else None
        read[at] = replace(part, content=Text(field, first.text), placement=placement, count=first.count)
        if sentence.second is not None and sentence.relation is not None:
            more.append(Relation(at, sentence.relation, len(parts) + len(extra)))
            second = Text(field, sentence.second.text)
            extra.append(replace(part, content=second, count=sentence.second.count))
    return (*read, *extra), tuple(more)


def with_modifiers(message: pb.SearchRequest, parts: tuple[QueryPart, ...]) -> tuple[QueryPart, ...]:
    """Each modifier as one more part beside the one that it changes, of half its weight each.

    Scores are calibrated, so the odds that something is like the picture and those that it is as the words say add up.
    Moving the picture's vector by the text's instead would leave the place where pictures' vectors lie.
    """
    changed, extra = list(parts), []
    for at, part in enumerate(message.parts):
        if not part.modifier:
            continue
        field = f"parts[{at}].modifier"
        if isinstance(parts[at].content, Text):
            raise InvalidArgument("changes pictures, regions and vectors; write a text as one text", field=field)
        if parts[at].weight <= 0:
            raise InvalidArgument("goes with a positive weight only", field=field)
        half = parts[at].weight / 2
        changed[at] = replace(parts[at], weight=half)
        extra.append(QueryPart(at, _read_text(part.modifier, field), half))
    # Behind all others: relations name parts by their places.
    return (*changed, *extra)


def _read_content(part: pb.Part, field: str, limits: ImageLimits) -> Content:
    kind = part.WhichOneof("content")
    if kind is None:
        raise InvalidArgument("needs one of text, image, image_id, image_url, region and vector", field=field)
    path = f"{field}.{kind}"
    if kind == "text":
        return _read_text(part.text, path)
    if kind == "region":
        return _read_region(part.region, path, limits)
    if kind == "vector":
        return OwnVector(path, _read_vector(part, path))
    return _read_picture(part, kind, path, limits)


def _read_text(text: str, field: str) -> Text:
    if not text.strip():
        raise InvalidArgument("is empty; say in words what to look for", field=field, reason="TEXT_EMPTY")
    if len(text) > MAX_TEXT:
        raise InvalidArgument(
            f"has {len(text)} characters, at most {MAX_TEXT} are read", field=field, reason="TEXT_TOO_LONG"
        )
    return Text(field, text)


def _read_vector(part: pb.Part, field: str) -> Vector:
    vector = from_tensor(part.vector, field=field)
    if vector.ndim != 1 or not vector.size:
        raise InvalidArgument(f"needs the shape [dimension], not {list(vector.shape)}", field=f"{field}.shape")
    # In float64, where no float32's square overflows or vanishes.
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if length == 0:
        raise InvalidArgument("is all zeros, which has no direction", field=field)
    unit: Vector = (vector.astype(np.float64) / length).astype(np.float32)
    return unit


def _read_picture(holder: pb.Part | pb.Region, kind: str, field: str, limits: ImageLimits) -> Picture:
    if kind == "image":
        probe(holder.image, limits, field)
        return Upload(field, holder.image)
    if kind == "image_url":
        if not holder.image_url:
            raise InvalidArgument("is empty; give an http or https address", field=field)
        return Address(field, holder.image_url)
    return Stored(field, check_image_id(holder.image_id, field))


def _read_region(region: pb.Region, field: str, limits: ImageLimits) -> Region | StoredSegment:
    kind = region.WhichOneof("picture")
    if kind is None:
        raise InvalidArgument("needs a picture: one of image, image_id and image_url", field=field)
    if region.HasField("segment_index"):
        if kind != "image_id" or region.points or region.HasField("box"):
            raise InvalidArgument(
                "names a stored segment: it goes with image_id, and without points and box",
                field=f"{field}.segment_index",
            )
        return StoredSegment(field, check_image_id(region.image_id, f"{field}.image_id"), region.segment_index)
    box = box_from_message(region.box, f"{field}.box") if region.HasField("box") else None
    if len(region.points) > MAX_POINTS:
        raise InvalidArgument(f"holds at most {MAX_POINTS} points", field=f"{field}.points")
    points = tuple(points_from_messages(region.points, f"{field}.points"))
    if box is None and all(point.background for point in points):
        raise InvalidArgument("needs points (one of them not background), a box, or a segment_index", field=field)
    return Region(field, _read_picture(region, kind, f"{field}.{kind}", limits), points, box)
