"""Rows <-> what the Milvus client takes and gives."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.common.domain import Box, Vector
from services.common.errors import InvalidArgument
from services.common.vectors.metadata import MAX_METADATA_BYTES, decode, encode, encode_key, indexed_size_bytes
from services.common.vectors.rows import FoundSegment, Generation, ImageHit, ImageRow, SegmentHit, SegmentRow
from services.common.vectors.schema import (
    CONFIDENCE_DECIMALS,
    MAX_SEGMENTS,
    MAX_TAG_BYTES,
    MAX_TAGS,
    MAX_TEXT_BYTES,
    TEXT_FIELD,
)
from services.common.vectors.signs import sign_bits

__all__ = [
    "check_vectors",
    "found_segment",
    "image_entity",
    "image_hit",
    "image_row",
    "image_tags",
    "image_vector",
    "indexed_text",
    "segment_entity",
    "segment_hit",
    "segment_ids",
    "segment_row",
    "signs_entity",
    "split_segment_id",
]

SEPARATOR: Final = "/"
# Milvus takes 65,536 bytes in a JSON field: room for 64 of a person's tags and as many of the model's, of any letters.
MAX_CONFIDENCES_BYTES: Final = 60_000
_NUMBER_BYTES: Final = 16

Entity = dict[str, Any]


def check_vectors(vectors: NDArray[np.float32], dimension: int, field: str = "vectors") -> NDArray[np.float32]:
    """The vectors as float32 of shape [n, dimension], or InvalidArgument."""
    array = np.asarray(vectors, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != dimension:
        raise InvalidArgument(
            f"vectors of shape {list(array.shape)} do not fit a collection of dimension {dimension}",
            field=field,
            reason="VECTOR_DIMENSION",
        )
    if not np.isfinite(array).all():
        raise InvalidArgument("a vector holds finite numbers only", field=field, reason="VECTOR_NOT_FINITE")
    return array


def image_entity(row: ImageRow, generation: Generation, field: str) -> Entity:
    """An image row as Milvus takes it; InvalidArgument under `field` if it does not fit."""
    return {
        "id": row.id,
        "vector": _vector(row.vector, generation, field),
        "tags": _tags(row.tags, f"{field}.tags"),
        "tag_confidences": _confidences(row.tags),
        "metadata": _metadata(row.metadata, f"{field}.metadata"),
        "width": row.width,
        "height": row.height,
        "created_at": row.created_at_ms,
    }


def segment_entity(row: SegmentRow, generation: Generation, field: str) -> Entity:
    """A segment row as Milvus takes it; InvalidArgument under `field` if it does not fit."""
    if not 0 <= row.index < MAX_SEGMENTS:
        raise InvalidArgument(
            f"an image has at most {MAX_SEGMENTS} segments, numbered from 0; not {row.index}", field=f"{field}.index"
        )
    return {
        "id": row.id,
        "image_id": row.image_id,
        "vector": _vector(row.vector, generation, field),
        "x0": row.box.x0,
        "y0": row.box.y0,
        "x1": row.box.x1,
        "y1": row.box.y1,
        "area": row.area,
        "stability": row.stability,
        "tags": _tags(row.tags, f"{field}.tags"),
        "tag_confidences": _confidences(row.tags),
        "image_tags": _tags(row.image_tags, f"{field}.image_tags"),
        "image_tag_confidences": _confidences(row.image_tags),
        "metadata": _metadata(row.metadata, f"{field}.metadata"),
        "width": row.width,
        "height": row.height,
        "created_at": row.created_at_ms,
    }


def signs_entity(entity: Entity) -> Entity:
    """The row that stands beside a row of an LSH index: the signs of its vector, and what filters ask."""
    fields = {name: value for name, value in entity.items() if name != TEXT_FIELD}
    return {**fields, "vector": sign_bits(entity["vector"][np.newaxis])[0].tobytes()}


def _vector(vector: Vector, generation: Generation, field: str) -> Vector:
    return check_vectors(np.asarray(vector)[np.newaxis], generation.dimension, f"{field}.vector").ravel()


def _tags(tags: Mapping[str, float], field: str) -> list[str]:
    names = list(tags)
    if len(names) > MAX_TAGS:
        raise InvalidArgument(f"at most {MAX_TAGS} tags can be indexed, not {len(names)}", field=field)
    for i, name in enumerate(names):
        if len(name.encode()) > MAX_TAG_BYTES:
            raise InvalidArgument(f"a tag has at most {MAX_TAG_BYTES} bytes in UTF-8", field=f"{field}[{i}]")
    return names


def _confidences(tags: Mapping[str, float]) -> dict[str, float]:
    # Rounded, so that a confidence asked for as it was told passes in every engine's arithmetic.
    found: dict[str, float] = {}
    left = MAX_CONFIDENCES_BYTES
    for name, confidence in tags.items():
        key = encode_key(name)
        left -= len(key.encode()) + _NUMBER_BYTES
        # Tags come in order of their weight; Milvus would refuse the row.
        if left < 0:
            break
        found[key] = round(float(confidence), CONFIDENCE_DECIMALS)
    return found


def _tags_of(entity: Entity, names: str = "tags", confidences: str = "tag_confidences") -> dict[str, float]:
    known = entity[confidences] or {}
    return {name: float(known.get(encode_key(name), 0.0)) for name in entity[names]}


def image_tags(entity: Entity) -> dict[str, float]:
    """An image's tags with their confidence from what Milvus gave."""
    return _tags_of(entity)


def indexed_text(text: str) -> str:
    """As much of a title and description as is indexed."""
    return text.encode()[:MAX_TEXT_BYTES].decode(errors="ignore")


def _metadata(metadata: dict[str, Any], field: str) -> dict[str, Any]:
    size = indexed_size_bytes(metadata)
    if size > MAX_METADATA_BYTES:
        raise InvalidArgument(f"has {size} bytes as it is indexed; at most {MAX_METADATA_BYTES} fit", field=field)
    return encode(metadata)


def image_row(entity: Entity) -> ImageRow:
    """An image row from what Milvus gave."""
    return ImageRow(
        id=entity["id"],
        vector=np.asarray(entity["vector"], dtype=np.float32),
        tags=_tags_of(entity),
        metadata=decode(entity["metadata"]),
        width=entity["width"],
        height=entity["height"],
        created_at_ms=entity["created_at"],
    )


def segment_row(entity: Entity) -> SegmentRow:
    """A segment row from what Milvus gave."""
    return SegmentRow(
        image_id=entity["image_id"],
        index=split_segment_id(entity["id"])[1],
        vector=np.asarray(entity["vector"], dtype=np.float32),
        box=_box(entity),
        area=entity["area"],
        stability=entity["stability"],
        tags=_tags_of(entity),
        image_tags=_tags_of(entity, "image_tags", "image_tag_confidences"),
        metadata=decode(entity["metadata"]),
        width=entity["width"],
        height=entity["height"],
        created_at_ms=entity["created_at"],
    )


def image_vector(entity: Entity) -> Vector:
    """An image's vector from what Milvus gave."""
    return np.asarray(entity["vector"], dtype=np.float32)


def found_segment(entity: Entity) -> FoundSegment:
    """A segment's own fields from what Milvus gave."""
    return FoundSegment(
        image_id=entity["image_id"],
        index=split_segment_id(entity["id"])[1],
        vector=np.asarray(entity["vector"], dtype=np.float32),
        box=_box(entity),
        area=entity["area"],
        stability=entity["stability"],
        tags=_tags_of(entity),
    )


def image_hit(hit: Entity) -> ImageHit:
    """A found image from what Milvus gave."""
    return ImageHit(hit["id"], _cosine(hit["distance"]))


def segment_hit(hit: Entity) -> SegmentHit:
    """A found segment from what Milvus gave."""
    return SegmentHit(*split_segment_id(hit["id"]), _cosine(hit["distance"]))


def split_segment_id(row_id: str) -> tuple[str, int]:
    """The image and the index that a segment's id names."""
    image_id, _, index = row_id.rpartition(SEPARATOR)
    return image_id, int(index)


def _box(entity: Entity) -> Box:
    return Box(entity["x0"], entity["y0"], entity["x1"], entity["y1"])


def _cosine(distance: float) -> float:
    # float32 sums of unit vectors reach a little over 1.
    return max(-1.0, min(1.0, distance))


def segment_ids(image_id: str) -> list[str]:
    """Every id that a segment of the image can have."""
    return [f"{image_id}{SEPARATOR}{index}" for index in range(MAX_SEGMENTS)]
