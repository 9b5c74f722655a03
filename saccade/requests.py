"""Plain Python values -> messages of the contracts: pictures, parts, regions, filters, images to store.

Wrong values raise ValueError with a sentence; nothing here calls a service.
"""

import base64
import hashlib
import json
import os
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from saccade.channel import MAX_MESSAGE_BYTES
from saccade.common.v1 import types_pb2
from saccade.ingest.v1 import ingest_service_pb2
from saccade.query.v1 import query_service_pb2

__all__ = [
    "Box",
    "Consistency",
    "Filter",
    "IndexKind",
    "Method",
    "Metric",
    "Mode",
    "NewImage",
    "Picture",
    "Place",
    "Point",
    "RelationKind",
    "Wait",
    "content_id",
    "content_of",
    "is_url",
    "make_filter",
    "make_index",
    "make_part",
    "make_region",
    "make_relation",
    "make_weights",
    "named_value",
    "new_image",
    "read_picture",
    "to_box",
    "to_points",
    "vector_tensor",
    "vectors_of",
]

Picture: TypeAlias = bytes | str | os.PathLike[str]
"""An encoded image, an http(s) address (a str that begins so), or the path of a file."""

Box: TypeAlias = tuple[float, float, float, float]
"""x0, y0, x1, y1 as fractions of the image's sides, (0, 0) top left."""

Point: TypeAlias = tuple[float, float] | tuple[float, float, bool]
"""x, y as fractions of the image's sides; a third True: a point outside the wanted region."""

IndexKind = Literal["", "ivf_flat", "hnsw", "flat", "lsh"]
Method = Literal["", "pca", "umap"]
Metric = Literal["", "cosine", "l2", "ip"]
Mode = Literal["", "whole", "segment", "hybrid", "tags"]
Place = Literal["left", "right", "top", "bottom", "center"]
RelationKind = Literal["left_of", "right_of", "above", "below", "near", "inside"]
Wait = Literal["", "durable", "searchable", "segmented"]
Consistency = Literal["", "eventual", "bounded", "strong"]

Filter: TypeAlias = types_pb2.Filter | Mapping[str, Any]
"""The message, or its JSON mapping as a dict, such as {"tags": {"names": ["owl"]}}; see saccade.filters."""

# Room in a message for everything beside the picture.
MAX_PICTURE_BYTES: Final = MAX_MESSAGE_BYTES - 4 * 1024 * 1024
_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True)
class NewImage:
    """An image to store.

    Attributes:
        content: A file's path is read when it is sent, not before; an address is fetched by the service.
        id: Its name in the collection; empty: made from the content.
        source: File name or the like; empty: the path or address.
        title: Title or caption.
        metadata: The caller's own fields, as JSON can hold them.
        tags: Words that a person gives it.
    """

    content: Picture
    id: str = ""
    source: str = ""
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: Sequence[str] = ()


def is_url(picture: Picture) -> bool:
    """Whether a service has to fetch it."""
    return isinstance(picture, str) and picture.startswith(("http://", "https://"))


def read_picture(picture: Picture) -> bytes:
    """The bytes themselves, or those of the file; OSError where it can not be read, ValueError where it is too long."""
    if is_url(picture):
        raise ValueError("this call takes a picture's bytes or the path of a file, not an address")
    if isinstance(picture, bytes):
        data = picture
    else:
        path = Path(picture)
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_PICTURE_BYTES else b"\0" * (MAX_PICTURE_BYTES + 1)
    if len(data) > MAX_PICTURE_BYTES:
        raise ValueError(f"the picture is longer than {MAX_PICTURE_BYTES} bytes, more than one message can hold")
    return data


def content_id(data: bytes) -> str:
    """The id that the ingest service makes from an image's bytes: 128 bits of their SHA-256 in base32, lower case."""
    return base64.b32encode(hashlib.sha256(data).digest()[:16]).decode().rstrip("=").lower()


def content_of(picture: Picture) -> dict[str, Any]:
    """As keyword arguments of a message that has `image` and `image_url`."""
    return {"image_url": picture} if is_url(picture) else {"image": read_picture(picture)}


def named_value(kind: Any, prefix: str, name: str) -> Any:
    """An enum's value by its short name: ("SEARCH_MODE_", "whole") is SEARCH_MODE_WHOLE; empty is UNSPECIFIED."""
    wanted = f"{prefix}{name or 'unspecified'}".upper()
    if wanted not in kind.keys():  # noqa: SIM118 - protobuf's wrapper is no mapping
        known = ", ".join(key.removeprefix(prefix).lower() for key in kind.keys()[1:])
        raise ValueError(f"needs one of {known}, not {name!r}")
    return kind.Value(wanted)


def to_box(box: Box) -> types_pb2.BoundingBox:
    """A box."""
    x0, y0, x1, y1 = box
    return types_pb2.BoundingBox(x0=x0, y0=y0, x1=x1, y1=y1)


def to_points(points: Iterable[Point]) -> list[types_pb2.Point]:
    """Points."""
    return [types_pb2.Point(x=x, y=y, background=bool(rest and rest[0])) for x, y, *rest in points]


def make_region(
    *,
    image: Picture | None = None,
    like: str = "",
    box: Box | None = None,
    points: Iterable[Point] = (),
    segment: int | None = None,
) -> query_service_pb2.Region:
    """A region of a picture (`image`) or of an image of the collection (`like`): by box, points or segment index."""
    if (image is None) == (not like):
        raise ValueError("a region needs a picture: either image or like (the id of a stored image)")
    region = query_service_pb2.Region(
        box=to_box(box) if box else None,
        points=to_points(points),
        segment_index=segment,
        **({"image_id": like} if image is None else content_of(image)),
    )
    if box is None and not region.points and segment is None:
        raise ValueError("a region needs a box, points, or the index of a stored image's segment")
    return region


def make_index(
    kind: IndexKind = "", *, metric: Metric = "", target_recall: float = 0.0, nlist: int = 0, nprobe: int = 0
) -> ingest_service_pb2.IndexSpec:
    """How a collection is indexed; what is left out the service chooses.

    Args:
        kind: ivf_flat, hnsw, flat or lsh ("": ivf_flat).
        metric: cosine, l2 or ip ("": cosine).
        target_recall: Recall@10 to aim for, in (0, 1]; 0 for 0.95.
        nlist: Lists of ivf_flat; 0: as many as the rows want, and more as they grow.
        nprobe: Lists searched, or hnsw's search list; 0: as many as the recall needs.
    """
    return ingest_service_pb2.IndexSpec(
        type=named_value(ingest_service_pb2.IndexType, "INDEX_TYPE_", kind),
        metric=named_value(ingest_service_pb2.Metric, "METRIC_", metric),
        target_recall=target_recall,
        nlist=nlist,
        nprobe=nprobe,
    )


def make_part(
    *,
    text: str | None = None,
    image: Picture | None = None,
    like: str = "",
    region: query_service_pb2.Region | None = None,
    vector: Iterable[float] | None = None,
    weight: float | None = None,
    place: Place | Box | None = None,
    count: int = 0,
    modifier: str = "",
) -> query_service_pb2.Part:
    """One element of a query: exactly one of text, image, like (the id of a stored image), region and vector.

    `place` says where it should be, by name or as a box; `count` how many of it there should be, 0: any number;
    `modifier` are words that change what a picture, region or vector looks for, such as "in the snow".
    """
    content: dict[str, Any] = {}
    if text is not None:
        content["text"] = text
    if image is not None:
        content |= content_of(image)
    if like:
        content["image_id"] = like
    if region is not None:
        content["region"] = region
    if vector is not None:
        content["vector"] = vector_tensor(vector)
    if len(content) != 1:
        raise ValueError(f"a part needs exactly one of text, image, like, region and vector, not {len(content)}")
    return query_service_pb2.Part(weight=weight, placement=_placement(place), count=count, modifier=modifier, **content)


def make_relation(first: int, kind: RelationKind, second: int) -> query_service_pb2.Relation:
    """How the part with the first index should stand to the one with the second."""
    known = query_service_pb2.Relation.Kind
    return query_service_pb2.Relation(first=first, kind=named_value(known, "KIND_", kind), second=second)


def _placement(place: Place | Box | None) -> query_service_pb2.Placement | None:
    if place is None:
        return None
    if isinstance(place, str):
        known = query_service_pb2.Placement.Place
        return query_service_pb2.Placement(place=named_value(known, "PLACE_", place))
    return query_service_pb2.Placement(box=to_box(place))


def make_weights(weights: Mapping[str, float]) -> query_service_pb2.Weights | None:
    """How much whole, segment, tag and position scores count; none given: the defaults."""
    known = query_service_pb2.Weights.DESCRIPTOR.fields_by_name
    for name in weights:
        if name not in known:
            raise ValueError(f"weights are {', '.join(known)}; there is none named {name!r}")
    return query_service_pb2.Weights(**weights) if weights else None


def make_filter(filter: Filter | None) -> types_pb2.Filter | None:
    """A filter from its JSON mapping; ValueError where that does not fit the contract."""
    if filter is None or isinstance(filter, types_pb2.Filter):
        return filter
    return _parsed(filter, types_pb2.Filter(), "filter")


def make_struct(values: Mapping[str, Any], name: str) -> Struct:
    """JSON-like values; ValueError for what JSON can not hold."""
    return _parsed(values, Struct(), name)


def new_image(image: NewImage) -> ingest_service_pb2.NewImage:
    """As it goes over the wire, with the file's bytes; OSError where they can not be read."""
    content, source = image.content, image.source
    if not source and not isinstance(content, bytes):
        source = os.fspath(content)
    return ingest_service_pb2.NewImage(
        id=image.id,
        source=source,
        title=image.title,
        metadata=make_struct(image.metadata, "metadata"),
        tags=image.tags,
        **({"url": content} if is_url(content) else {"data": read_picture(content)}),
    )


def vector_tensor(values: Iterable[float]) -> types_pb2.Tensor:
    """A vector of numbers, as float32."""
    packed = array("f", values)
    return types_pb2.Tensor(
        data_type=types_pb2.DATA_TYPE_FLOAT32, shape=[len(packed)], data=_little_endian(packed).tobytes()
    )


def vectors_of(tensor: types_pb2.Tensor) -> list["array[float]"]:
    """The rows of a [rows, dimension] or [dimension] tensor; `numpy.asarray` takes each without a copy."""
    if tensor.data_type != types_pb2.DATA_TYPE_FLOAT32:
        raise ValueError("only float32 tensors are read here, which is what the services send")
    dimension = tensor.shape[-1]
    values = array("f")
    values.frombytes(tensor.data)
    _little_endian(values)
    return [values[start : start + dimension] for start in range(0, len(values), dimension)]


def _little_endian(values: "array[float]") -> "array[float]":
    """The same array, turned in place between this machine's byte order and the contract's."""
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _parsed(values: Mapping[str, Any], message: _M, name: str) -> _M:
    try:
        return json_format.Parse(json.dumps(values), message)
    except (json_format.ParseError, RecursionError, TypeError, ValueError) as exc:
        raise ValueError(f"{name}: {exc}") from exc
