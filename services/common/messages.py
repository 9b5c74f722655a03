"""Domain objects <-> messages of `saccade.common.v1`."""

from collections.abc import Iterable

from saccade.common.v1 import types_pb2
from services.common.domain import Box, Mask, Point, Segment, Tag
from services.common.errors import InvalidArgument
from services.common.records import ImageRecord, ImageState
from services.common.tensors import from_tensor, to_tensor

__all__ = [
    "box_from_message",
    "box_to_message",
    "image_to_message",
    "mask_from_message",
    "mask_to_message",
    "points_from_messages",
    "segment_from_message",
    "segment_to_message",
    "tag_to_message",
]


def box_from_message(message: types_pb2.BoundingBox, field: str = "box") -> Box:
    """Read and check a box; InvalidArgument names `field`."""
    return Box(message.x0, message.y0, message.x1, message.y1).checked(field)


def box_to_message(box: Box) -> types_pb2.BoundingBox:
    """Write a box."""
    return types_pb2.BoundingBox(x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1)


def points_from_messages(messages: Iterable[types_pb2.Point], field: str = "points") -> list[Point]:
    """Read and check points; InvalidArgument names `field[i]`."""
    return [
        Point(message.x, message.y, message.background).checked(f"{field}[{i}]") for i, message in enumerate(messages)
    ]


def mask_from_message(message: types_pb2.Mask, field: str = "mask", *, max_pixels: int) -> Mask:
    """Read and check a mask; InvalidArgument names `field` if it is larger, contradicts itself, or covers nothing."""
    height, width, counts = message.height, message.width, tuple(message.counts)
    pixels = height * width
    if not 0 < pixels <= max_pixels:
        raise InvalidArgument(
            f"needs 1 to {max_pixels:,} pixels, not {width:,} x {height:,}", field=field, reason="MASK_SIZE"
        )
    if sum(counts) != pixels:
        raise InvalidArgument(
            f"the counts add up to {sum(counts):,}, but {width:,} x {height:,} are {pixels:,} pixels",
            field=f"{field}.counts",
            reason="MASK_COUNTS",
        )
    if not any(counts[1::2]):
        raise InvalidArgument("the mask covers nothing", field=field, reason="MASK_EMPTY")
    return Mask(height, width, counts)


def mask_to_message(mask: Mask) -> types_pb2.Mask:
    """Write a mask."""
    return types_pb2.Mask(height=mask.height, width=mask.width, counts=mask.counts)


def tag_to_message(tag: Tag) -> types_pb2.Tag:
    """Write a tag."""
    return types_pb2.Tag(name=tag.name, category=tag.category, confidence=tag.confidence)


def segment_from_message(message: types_pb2.Segment) -> Segment:
    """Read a segment that one of our own services wrote."""
    mask = message.mask
    return Segment(
        index=message.index,
        box=Box(message.box.x0, message.box.y0, message.box.x1, message.box.y1),
        area_fraction=message.area_fraction,
        predicted_iou=message.predicted_iou,
        stability=message.stability,
        mask=Mask(mask.height, mask.width, tuple(mask.counts)) if message.HasField("mask") else None,
        tags=tuple(Tag(tag.name, tag.category, tag.confidence) for tag in message.tags),
        vector=from_tensor(message.vector, field="vector") if message.HasField("vector") else None,
    )


def segment_to_message(
    segment: Segment, *, include_mask: bool = False, include_vector: bool = False
) -> types_pb2.Segment:
    """Write a segment; mask and vector only where asked for and known."""
    return types_pb2.Segment(
        index=segment.index,
        box=box_to_message(segment.box),
        area_fraction=segment.area_fraction,
        predicted_iou=segment.predicted_iou,
        stability=segment.stability,
        mask=mask_to_message(segment.mask) if include_mask and segment.mask else None,
        tags=[tag_to_message(tag) for tag in segment.tags],
        vector=to_tensor(segment.vector) if include_vector and segment.vector is not None else None,
    )


def image_to_message(collection: str, record: ImageRecord) -> types_pb2.Image:
    """Write a stored image, without its segments and addresses."""
    message = types_pb2.Image(
        id=record.id,
        collection=collection,
        state=_STATES[record.state],
        failure=record.failure,
        content_type=record.content_type,
        size_bytes=record.size_bytes,
        width=record.width,
        height=record.height,
        sha256=record.sha256,
        source=record.source,
        title=record.title,
        tags=[tag_to_message(tag) for tag in record.tags],
        etag=record.etag,
    )
    message.metadata.update(record.metadata)
    message.create_time.FromMilliseconds(record.created_at_ms)
    message.update_time.FromMilliseconds(record.updated_at_ms)
    return message


_STATES = {
    ImageState.DURABLE: types_pb2.IMAGE_STATE_DURABLE,
    ImageState.SEARCHABLE: types_pb2.IMAGE_STATE_SEARCHABLE,
    ImageState.SEGMENTED: types_pb2.IMAGE_STATE_SEGMENTED,
    ImageState.FAILED: types_pb2.IMAGE_STATE_FAILED,
}
