"""Filters in words: which images, or segments, count.

from saccade import filters as f
client.search("demo", text="an owl", filter=f.all_of(f.tags("pizza"), f.negated(f.metadata("lens.mm", max=35))))
"""

import json
from collections.abc import Sequence
from typing import TypeAlias

from google.protobuf import json_format
from google.protobuf.struct_pb2 import ListValue, Value

from saccade.common.v1.types_pb2 import BoundingBox, Filter

__all__ = [
    "all_of",
    "any_of",
    "created",
    "height",
    "ids",
    "metadata",
    "negated",
    "segment_area_fraction",
    "segment_within",
    "tags",
    "width",
]

Scalar: TypeAlias = str | float | bool


def all_of(*filters: Filter) -> Filter:
    """Every one must pass."""
    return Filter(all=Filter.All(filters=filters))


def any_of(*filters: Filter) -> Filter:
    """One must pass."""
    return Filter(any=Filter.Any(filters=filters))


def negated(inner: Filter) -> Filter:
    """It must not pass."""
    return Filter(negated=inner)


def tags(*names: str, all: bool = False, min_confidence: float = 0.0) -> Filter:
    """One of these tags is there, or `all` of them, each at least so sure; a person's tags have the confidence 1."""
    return Filter(tags=Filter.Tags(names=names, all=all, min_confidence=min_confidence))


def metadata(
    path: str | Sequence[str],
    *,
    equals: Scalar | None = None,
    any_of: Sequence[Scalar] = (),
    min: float | None = None,
    max: float | None = None,
    exists: bool | None = None,
) -> Filter:
    """A test of a value inside the image's metadata: exactly one of equals, any_of, a range (min, max) and exists.

    Args:
        path: Keys from the top, as a sequence or joined by dots.
        equals: Equal to this.
        any_of: Equal to one of these.
        min: A number that is at least this.
        max: A number that is at most this.
        exists: Whether the path is there.
    """
    test = Filter.Metadata(path=path.split(".") if isinstance(path, str) else path)
    given = [equals is not None, bool(any_of), min is not None or max is not None, exists is not None]
    if sum(given) != 1:
        raise ValueError("a metadata filter needs exactly one of equals, any_of, a range (min, max) and exists")
    if equals is not None:
        test.equals.CopyFrom(json_format.Parse(json.dumps(equals), Value()))
    elif any_of:
        test.any_of.CopyFrom(json_format.Parse(json.dumps(list(any_of)), ListValue()))
    elif exists is not None:
        test.exists = exists
    else:
        test.range.CopyFrom(Filter.Range(min=min, max=max))
    return Filter(metadata=test)


def created(*, min_s: float | None = None, max_s: float | None = None) -> Filter:
    """First stored in this range, in seconds since the epoch."""
    return Filter(create_time=Filter.Range(min=min_s, max=max_s))


def width(*, min_px: float | None = None, max_px: float | None = None) -> Filter:
    """This many pixels wide."""
    return Filter(width=Filter.Range(min=min_px, max=max_px))


def height(*, min_px: float | None = None, max_px: float | None = None) -> Filter:
    """This many pixels high."""
    return Filter(height=Filter.Range(min=min_px, max=max_px))


def segment_area_fraction(*, min: float | None = None, max: float | None = None) -> Filter:
    """The segment covers this share of its image, in [0, 1]; segment searches only."""
    return Filter(segment_area_fraction=Filter.Range(min=min, max=max))


def segment_within(x0: float, y0: float, x1: float, y1: float) -> Filter:
    """The segment's box lies in this box, as fractions of the image's sides; segment searches only."""
    return Filter(segment_within=BoundingBox(x0=x0, y0=y0, x1=x1, y1=y1))


def ids(*names: str) -> Filter:
    """Named images."""
    return Filter(ids=Filter.Ids(ids=names))
