"""The contract's typed Filter -> an expression of Milvus.

A filter either passes a row or does not; there is no third outcome. A path that is missing (or null) equals nothing and
lies in no range, and so passes the negation of both. A number never equals a truth value or a string.

Negations are carried down to the comparisons, where they are written out: engines disagree on `not` of a comparison
with something missing or of another type. See `metadata` for what the index holds.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

import numpy as np
from google.protobuf import struct_pb2

from saccade.common.v1 import types_pb2
from services.common.errors import InvalidArgument
from services.common.messages import box_from_message
from services.common.records import check_image_id
from services.common.vectors.literals import metadata_path, number, one_of, quote
from services.common.vectors.metadata import MARK, encode_key
from services.common.vectors.schema import CONFIDENCE_DECIMALS, MAX_TAG_BYTES

__all__ = ["FilterTarget", "carries_any", "compile_filter", "join_filters"]

# Filters inside filters.
MAX_DEPTH: Final = 16
# Comparisons in one filter; each value of `any_of` and each name in `tags` is one.
MAX_TERMS: Final = 256
MAX_TAG_NAMES: Final = 64
MAX_PATH_KEYS: Final = 8
MAX_KEY_CHARS: Final = 256
MAX_TEXT_BYTES: Final = 4_096
MAX_IDS: Final = 1_000

_INT64_MAX: Final = 2**63 - 1


class FilterTarget(Enum):
    """What the rows are, and so where a filter's fields stand in them."""

    IMAGES = "images"
    """Rows of images."""
    SEGMENTS = "segments"
    """Rows of segments; tags are the segment's own."""
    IMAGES_OF_SEGMENTS = "images of segments"
    """Rows of segments, asked for what their images are; tags are the image's."""


def compile_filter(message: types_pb2.Filter, target: FilterTarget, field: str = "filter") -> str:
    """The expression that passes the rows which the filter passes; empty for an unset filter.

    Raises:
        InvalidArgument: the filter is incomplete, contradicts itself or is too large; `field` is the path of the fault.
    """
    if message.WhichOneof("kind") is None:
        return ""
    return _Compiler(target).compile(message, field, depth=1, negated=False).text


def carries_any(names: Sequence[str]) -> str:
    """The expression that passes rows of images with one of these tags."""
    return f"array_contains_any(tags, [{', '.join(map(quote, names))}])"


def join_filters(*expressions: str) -> str:
    """The expression that passes what all of these pass; empty ones pass everything."""
    return " and ".join(f"({expression})" for expression in expressions if expression)


class _Expression(NamedTuple):
    text: str
    depth: int = 1


@dataclass
class _Compiler:
    target: FilterTarget
    terms: int = 0

    def compile(self, message: types_pb2.Filter, field: str, *, depth: int, negated: bool) -> _Expression:
        if depth > MAX_DEPTH:
            raise InvalidArgument(f"filters nest at most {MAX_DEPTH} deep", field=field, reason="FILTER_TOO_DEEP")
        kind = message.WhichOneof("kind")
        match kind:
            case "all":
                return self._join(message.all.filters, f"{field}.all", depth, negated, "or" if negated else "and")
            case "any":
                return self._join(message.any.filters, f"{field}.any", depth, negated, "and" if negated else "or")
            case "negated":
                return self.compile(message.negated, f"{field}.negated", depth=depth + 1, negated=not negated)
            case None:
                raise InvalidArgument("a filter inside a filter must say what it asks for", field=field)
            case _:
                return self._compile_leaf(message, f"{field}.{kind}", negated)

    def _compile_leaf(self, message: types_pb2.Filter, field: str, negated: bool) -> _Expression:
        match message.WhichOneof("kind"):
            case "tags":
                return self._tags(message.tags, field, negated)
            case "metadata":
                return self._metadata(message.metadata, field, negated)
            case "segment_area_fraction":
                return self._area(message.segment_area_fraction, field, negated)
            case "segment_within":
                return self._within(message.segment_within, field, negated)
            case "ids":
                return self._ids(message.ids, field, negated)
            case _:
                return self._column(message, field, negated)

    def _join(
        self, filters: Sequence[types_pb2.Filter], field: str, depth: int, negated: bool, operator: str
    ) -> _Expression:
        if not filters:
            raise InvalidArgument("needs at least one filter", field=f"{field}.filters")
        parts = [
            self.compile(message, f"{field}.filters[{i}]", depth=depth + 1, negated=negated)
            for i, message in enumerate(filters)
        ]
        return _group(parts, operator)

    def _tags(self, tags: types_pb2.Filter.Tags, field: str, negated: bool) -> _Expression:
        if math.isnan(tags.min_confidence) or not 0 <= tags.min_confidence <= 1:
            raise InvalidArgument("must be in [0, 1]", field=f"{field}.min_confidence")
        if not 1 <= len(tags.names) <= MAX_TAG_NAMES:
            raise InvalidArgument(f"needs 1 to {MAX_TAG_NAMES} names, not {len(tags.names)}", field=f"{field}.names")
        for i, name in enumerate(tags.names):
            if not 1 <= len(name.encode()) <= MAX_TAG_BYTES:
                raise InvalidArgument(f"a tag has 1 to {MAX_TAG_BYTES} bytes", field=f"{field}.names[{i}]")
        self._count(len(tags.names), f"{field}.names")
        if tags.min_confidence > 0:
            return self._sure_tags(tags, negated)
        column = "image_tags" if self.target is FilterTarget.IMAGES_OF_SEGMENTS else "tags"
        function = "array_contains_all" if tags.all else "array_contains_any"
        names = ", ".join(quote(name) for name in tags.names)
        return _maybe_not(_Expression(f"{function}({column}, [{names}])"), negated)

    def _sure_tags(self, tags: types_pb2.Filter.Tags, negated: bool) -> _Expression:
        column = "image_tag_confidences" if self.target is FilterTarget.IMAGES_OF_SEGMENTS else "tag_confidences"
        # The message's float32 and the index's rounding: what a caller read as a confidence passes when asked for.
        least = number(round(tags.min_confidence, CONFIDENCE_DECIMALS))
        parts = []
        for name in tags.names:
            place = f"{column}[{quote(encode_key(name))}]"
            sure = f"{place} >= {least}"
            parts.append(
                _comparisons([f"not (exists {place})", f"{place} < {least}"], "or") if negated else _Expression(sure)
            )
        return _group(parts, "and" if tags.all is not negated else "or")

    def _within(self, box: types_pb2.BoundingBox, field: str, negated: bool) -> _Expression:
        if self.target is not FilterTarget.SEGMENTS:
            raise InvalidArgument("only segments have a place; search segments, or leave this out", field=field)
        box_from_message(box, field)
        self._count(4, field)
        parts = [f"{column} >= {_float32(getattr(box, column))}" for column in ("x0", "y0")]
        parts += [f"{column} <= {_float32(getattr(box, column))}" for column in ("x1", "y1")]
        return _maybe_not(_comparisons(parts, "and"), negated)

    def _metadata(self, metadata: types_pb2.Filter.Metadata, field: str, negated: bool) -> _Expression:
        if not 1 <= len(metadata.path) <= MAX_PATH_KEYS:
            raise InvalidArgument(f"needs 1 to {MAX_PATH_KEYS} keys, not {len(metadata.path)}", field=f"{field}.path")
        for i, key in enumerate(metadata.path):
            if len(key) > MAX_KEY_CHARS:
                raise InvalidArgument(f"a key has at most {MAX_KEY_CHARS} characters", field=f"{field}.path[{i}]")
        place = metadata_path(metadata.path)
        match metadata.WhichOneof("test"):
            case "equals":
                self._count(1, field)
                return _equals(place, metadata.equals, f"{field}.equals", negated)
            case "any_of":
                values = metadata.any_of.values
                if not values:
                    raise InvalidArgument("needs at least one value", field=f"{field}.any_of")
                self._count(len(values), f"{field}.any_of")
                parts = [_equals(place, value, f"{field}.any_of[{i}]", negated) for i, value in enumerate(values)]
                return _group(parts, "and" if negated else "or")
            case "range":
                self._count(2, field)
                return _metadata_range(place, metadata.range, f"{field}.range", negated)
            case "exists":
                self._count(1, field)
                return _maybe_not(_Expression(f"(exists {place})"), negated is metadata.exists)
            case _:
                raise InvalidArgument("needs one of equals, any_of, range and exists", field=field)

    def _column(self, message: types_pb2.Filter, field: str, negated: bool) -> _Expression:
        self._count(2, field)
        match message.WhichOneof("kind"):
            case "create_time":
                column = "created_at"
                low, high = (_milliseconds(end) for end in _ends(message.create_time, field))
            case "width":
                column, (low, high) = "width", _ends(message.width, field)
            case _:
                column, (low, high) = "height", _ends(message.height, field)
        # The columns hold integers, so the ends are moved to the next integer inside the range.
        parts = [f"{column} >= {_int64(math.ceil(low))}"] if low is not None else []
        parts += [f"{column} <= {_int64(math.floor(high))}"] if high is not None else []
        return _maybe_not(_comparisons(parts, "and"), negated)

    def _area(self, limits: types_pb2.Filter.Range, field: str, negated: bool) -> _Expression:
        if self.target is not FilterTarget.SEGMENTS:
            raise InvalidArgument("only segments have an area; search segments, or leave this out", field=field)
        self._count(2, field)
        low, high = _ends(limits, field)
        # The column holds float32, and engines differ in whether they compare as float32 or as double.
        parts = [f"area >= {_float32(low)}"] if low is not None else []
        parts += [f"area <= {_float32(high)}"] if high is not None else []
        return _maybe_not(_comparisons(parts, "and"), negated)

    def _ids(self, ids: types_pb2.Filter.Ids, field: str, negated: bool) -> _Expression:
        if not 1 <= len(ids.ids) <= MAX_IDS:
            raise InvalidArgument(f"needs 1 to {MAX_IDS} ids, not {len(ids.ids)}", field=f"{field}.ids")
        for i, image_id in enumerate(ids.ids):
            check_image_id(image_id, f"{field}.ids[{i}]")
        self._count(1, field)
        column = "id" if self.target is FilterTarget.IMAGES else "image_id"
        return _maybe_not(_Expression(one_of(column, ids.ids)), negated)

    def _count(self, terms: int, field: str) -> None:
        self.terms += terms
        if self.terms > MAX_TERMS:
            raise InvalidArgument(
                f"a filter makes at most {MAX_TERMS} comparisons; this one makes more",
                field=field,
                reason="FILTER_TOO_LARGE",
            )


def _equals(place: str, value: struct_pb2.Value, field: str, negated: bool) -> _Expression:
    match value.WhichOneof("kind"):
        case "bool_value":
            left, right = f'{place}["{MARK}"]', "true" if value.bool_value else "false"
        case "number_value":
            left, right = place, number(_finite(value.number_value, field))
        case "string_value":
            if len(value.string_value.encode()) > MAX_TEXT_BYTES:
                raise InvalidArgument(f"a string has at most {MAX_TEXT_BYTES} bytes in UTF-8", field=field)
            left, right = place, quote(value.string_value)
        case _:
            raise InvalidArgument(
                "must be a string, a number or a truth value; for what is missing or null ask exists: false",
                field=field,
            )
    if negated:
        return _comparisons([f"not (exists {left})", f"{left} != {right}"], "or")
    return _Expression(f"{left} == {right}")


def _metadata_range(place: str, limits: types_pb2.Filter.Range, field: str, negated: bool) -> _Expression:
    low, high = _ends(limits, field)
    if not negated:
        parts = [f"{place} >= {number(low)}"] if low is not None else []
        parts += [f"{place} <= {number(high)}"] if high is not None else []
        return _comparisons(parts, "and")
    # Missing; or a string; or neither number nor string; or a number outside.
    parts = [f"not (exists {place})", f'{place} >= ""', f'(exists {place}["{MARK}"])']
    parts += [f"{place} < {number(low)}"] if low is not None else []
    parts += [f"{place} > {number(high)}"] if high is not None else []
    return _comparisons(parts, "or")


def _ends(limits: types_pb2.Filter.Range, field: str) -> tuple[float | None, float | None]:
    low = _finite(limits.min, f"{field}.min") if limits.HasField("min") else None
    high = _finite(limits.max, f"{field}.max") if limits.HasField("max") else None
    if low is None and high is None:
        raise InvalidArgument("needs min, max or both", field=field)
    if low is not None and high is not None and low > high:
        raise InvalidArgument(f"min {low:g} is above max {high:g}", field=field)
    return low, high


def _finite(value: float, field: str) -> float:
    if not math.isfinite(value):
        raise InvalidArgument("must be a finite number; leave an open end out", field=field)
    return value


def _milliseconds(seconds: float | None) -> float | None:
    if seconds is None:
        return None
    # Far beyond what the column holds, and far enough from what overflows.
    inside = max(-1e18, min(1e18, seconds))
    # Seconds with a fraction are seldom exact in binary: without rounding, 1.001 s would lie above 1,001 ms.
    return round(inside * 1000, 3)


def _int64(value: int) -> int:
    return max(-_INT64_MAX, min(_INT64_MAX, value))


def _float32(value: float) -> str:
    with np.errstate(over="ignore"):
        single = float(np.float32(value))
    return number(single if math.isfinite(single) else math.copysign(float(np.finfo(np.float32).max), value))


def _group(parts: Sequence[_Expression], operator: str) -> _Expression:
    """All parts joined in pairs, the shallowest first: Milvus refuses what nests more than some 45 deep."""
    heap = [(part.depth, order, part) for order, part in enumerate(parts)]
    heapq.heapify(heap)
    order = len(heap)
    while len(heap) > 1:
        _, _, left = heapq.heappop(heap)
        _, _, right = heapq.heappop(heap)
        joined = _Expression(f"({left.text} {operator} {right.text})", right.depth + 1)
        heapq.heappush(heap, (joined.depth, order, joined))
        order += 1
    return heap[0][2]


def _comparisons(texts: Sequence[str], operator: str) -> _Expression:
    return _group([_Expression(text) for text in texts], operator)


def _maybe_not(expression: _Expression, negated: bool) -> _Expression:
    return _Expression(f"not ({expression.text})", expression.depth + 1) if negated else expression
