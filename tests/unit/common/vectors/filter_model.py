"""What a Filter means, in plain Python, and random filters and rows to hold the engines against it."""

import math
from typing import Any, Final

import numpy as np
from google.protobuf import struct_pb2
from hypothesis import strategies as st

from saccade.common.v1 import types_pb2
from services.common.domain import Box
from services.common.vectors import FilterTarget, ImageRow, SegmentRow

__all__ = ["DIMENSION", "filters", "image_rows", "passes", "segment_rows"]

DIMENSION: Final = 4
MISSING: Final = object()

# Texts that are hard to quote, or that look like the engine's own language.
TEXTS: Final = [
    "",
    "1",
    "true",
    "a",
    "b",
    "ab",
    'a"b',
    "a'b",
    "a\\b",
    "a\\",
    "\\",
    '"',
    "a\nb",
    "a\tb",
    "a\rb",
    "a\x00b",
    "a\x01b",
    "a\x7fb",
    "a\\nb",
    "a\\u0041b",
    "\\u0022",
    "%",
    "a%_b",
    "ü😀",
    "a\u2028b",
    "\ufeffa",
    '" or id != "',
    '"] or exists metadata["a',
    "metadata",
    "$",
    "null",
]
KEYS: Final = [
    "a",
    "b",
    "",
    "0",
    "$",
    "$%",
    "$%61",
    "%61",
    "a b",
    "a.b",
    "a/b",
    "a~1b",
    "a~b",
    "a]b",
    "a[b",
    "a][b",
    'a"]["b',
    'a"b',
    "a'b",
    "a\\b",
    "a\\",
    "a\nb",
    "a\x01b",
    "\\u0061",
    "ü😀",
    "-1",
    "metadata",
]
NUMBERS: Final = [0.0, 1.0, -1.0, 2.0, 0.1, 1.5, -2.5, 1e-9, 1e300, -1e300, 2.0**31, 2.0**53, 2.0**60]
TAGS: Final = [text for text in TEXTS if text]
CONFIDENCES: Final = [1.0, 0.5, 0.3, 0.25, 0.000001, 0.0]
AREAS: Final = [0.1, 0.25, 0.3, 0.7, 1.0]
SIZES: Final = [100, 101, 640, 4000]
TIMES_MS: Final = [0, 999, 1000, 1001, 1_795_211_365_543]


def passes(message: types_pb2.Filter, row: ImageRow | SegmentRow, target: FilterTarget) -> bool:
    """Whether a row passes a well-formed filter."""
    match message.WhichOneof("kind"):
        case None:
            return True
        case "all":
            return all(passes(inner, row, target) for inner in message.all.filters)
        case "any":
            return any(passes(inner, row, target) for inner in message.any.filters)
        case "negated":
            return not passes(message.negated, row, target)
        case "ids":
            return (row.image_id if isinstance(row, SegmentRow) else row.id) in message.ids.ids
        case _:
            return _leaf_passes(message, row, target)


def _leaf_passes(message: types_pb2.Filter, row: ImageRow | SegmentRow, target: FilterTarget) -> bool:
    match message.WhichOneof("kind"):
        case "tags":
            own = row.tags
            if target is FilterTarget.IMAGES_OF_SEGMENTS and isinstance(row, SegmentRow):
                own = row.image_tags
            least = round(message.tags.min_confidence, 6)
            return (all if message.tags.all else any)(own.get(name, -1) >= least for name in message.tags.names)
        case "metadata":
            return _metadata_passes(message.metadata, row.metadata)
        case "create_time":
            return _in_range(message.create_time, row.created_at_ms / 1000)
        case "width":
            return _in_range(message.width, row.width)
        case "height":
            return _in_range(message.height, row.height)
        case _:
            assert isinstance(row, SegmentRow)
            return _segment_passes(message, row)


def _segment_passes(message: types_pb2.Filter, row: SegmentRow) -> bool:
    if message.WhichOneof("kind") == "segment_area_fraction":
        return _in_range(message.segment_area_fraction, row.area, np.float32)
    outer, inner = message.segment_within, row.box
    edges = [np.float32(edge) for edge in (outer.x0, inner.x0, inner.x1, outer.x1)]
    edges_down = [np.float32(edge) for edge in (outer.y0, inner.y0, inner.y1, outer.y1)]
    return all(bool(sides[0] <= sides[1] and sides[2] <= sides[3]) for sides in (edges, edges_down))


def _metadata_passes(message: types_pb2.Filter.Metadata, metadata: dict[str, Any]) -> bool:
    value: Any = metadata
    for key in message.path:
        value = value.get(key, MISSING) if isinstance(value, dict) else MISSING
    if value is None:
        value = MISSING
    match message.WhichOneof("test"):
        case "equals":
            return _equal(value, message.equals)
        case "any_of":
            return any(_equal(value, wanted) for wanted in message.any_of.values)
        case "range":
            return isinstance(value, int | float) and not isinstance(value, bool) and _in_range(message.range, value)
        case _:
            return (value is not MISSING) is message.exists


def _equal(value: Any, wanted: struct_pb2.Value) -> bool:
    match wanted.WhichOneof("kind"):
        case "bool_value":
            return value is wanted.bool_value
        case "number_value":
            return isinstance(value, int | float) and not isinstance(value, bool) and value == wanted.number_value
        case _:
            return isinstance(value, str) and value == wanted.string_value


def _in_range(limits: types_pb2.Filter.Range, value: float, kind: Any = float) -> bool:
    above = not limits.HasField("min") or kind(value) >= kind(limits.min)
    below = not limits.HasField("max") or kind(value) <= kind(limits.max)
    return bool(above and below)


texts = st.sampled_from(TEXTS) | st.text(st.characters(codec="utf-8"), max_size=8)
keys = st.sampled_from(KEYS) | st.text(st.characters(codec="utf-8"), max_size=4)
numbers = st.sampled_from(NUMBERS) | st.floats(allow_nan=False, allow_infinity=False)


def _values(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(children, max_size=3) | st.dictionaries(keys, children, max_size=3)


values = st.recursive(st.none() | st.booleans() | numbers | texts, _values, max_leaves=6)


def _value(value: str | float | bool) -> struct_pb2.Value:
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    return struct_pb2.Value(number_value=value)


constants = (st.booleans() | numbers | texts).map(_value)
# Paths that the rows below are likely to have.
paths = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2) | st.lists(keys, min_size=1, max_size=3)


@st.composite
def ranges(draw: st.DrawFn, ends: st.SearchStrategy[float]) -> types_pb2.Filter.Range:
    low, high = sorted((draw(ends), draw(ends)))
    shape = draw(st.sampled_from(["both", "min", "max"]))
    return types_pb2.Filter.Range(min=None if shape == "max" else low, max=None if shape == "min" else high)


@st.composite
def metadata_filters(draw: st.DrawFn) -> types_pb2.Filter:
    path = draw(paths)
    match draw(st.sampled_from(["equals", "any_of", "range", "exists"])):
        case "equals":
            test = types_pb2.Filter.Metadata(path=path, equals=draw(constants))
        case "any_of":
            wanted = struct_pb2.ListValue(values=draw(st.lists(constants, min_size=1, max_size=4)))
            test = types_pb2.Filter.Metadata(path=path, any_of=wanted)
        case "range":
            test = types_pb2.Filter.Metadata(path=path, range=draw(ranges(numbers)))
        case _:
            test = types_pb2.Filter.Metadata(path=path, exists=draw(st.booleans()))
    return types_pb2.Filter(metadata=test)


def _image_id(index: int) -> str:
    return f"{'_-a0'[index % 4]}.{index:03d}"


ids = st.lists(st.integers(0, 60).map(_image_id), min_size=1, max_size=5)
times = st.sampled_from([ms / 1000 for ms in TIMES_MS] + [0.0005, 1.0005, -5.0, 1e12, 1e300, 1.7e308])
sizes = st.sampled_from([100.0, 100.5, 101.0, 639.9, 640.0, 1e30, -1e30])


def _tags(names: list[str], every: bool, least: float) -> types_pb2.Filter:
    return types_pb2.Filter(tags=types_pb2.Filter.Tags(names=names, all=every, min_confidence=least))


def _within(x0: float, y0: float, x1: float, y1: float) -> types_pb2.Filter:
    return types_pb2.Filter(segment_within=types_pb2.BoundingBox(x0=x0, y0=y0, x1=x1, y1=y1))


def _leaves(target: FilterTarget) -> st.SearchStrategy[types_pb2.Filter]:
    names = st.lists(st.sampled_from(TAGS), min_size=1, max_size=3)
    kinds = [
        metadata_filters(),
        metadata_filters(),
        st.builds(_tags, names, st.booleans(), st.sampled_from([0.0, 0.0, *CONFIDENCES, 0.299999, 0.3000001])),
        ranges(times).map(lambda limits: types_pb2.Filter(create_time=limits)),
        ranges(sizes).map(lambda limits: types_pb2.Filter(width=limits)),
        ranges(sizes).map(lambda limits: types_pb2.Filter(height=limits)),
        ids.map(lambda names: types_pb2.Filter(ids=types_pb2.Filter.Ids(ids=names))),
    ]
    if target is FilterTarget.SEGMENTS:
        areas = st.sampled_from([*AREAS, 0.0, 0.299999, 0.3000001])
        low, high = st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.5, 0.7, 0.75, 1.0])
        kinds.append(st.builds(_within, low, low, high, high))
        kinds.append(ranges(areas).map(lambda limits: types_pb2.Filter(segment_area_fraction=limits)))
    return st.one_of(kinds)


def filters(target: FilterTarget) -> st.SearchStrategy[types_pb2.Filter]:
    """Well-formed filters of every kind, some levels deep."""

    def combine(children: st.SearchStrategy[types_pb2.Filter]) -> st.SearchStrategy[types_pb2.Filter]:
        several = st.lists(children, min_size=1, max_size=3)
        return (
            several.map(lambda inner: types_pb2.Filter(all=types_pb2.Filter.All(filters=inner)))
            | several.map(lambda inner: types_pb2.Filter(any=types_pb2.Filter.Any(filters=inner)))
            | children.map(lambda inner: types_pb2.Filter(negated=inner))
        )

    return st.recursive(_leaves(target), combine, max_leaves=6)


def _metadatas() -> list[dict[str, Any]]:
    scalars: list[Any] = [*TEXTS, *NUMBERS, True, False, None, [], [1, "x"], {}]
    single: list[dict[str, Any]] = [{"a": value} for value in scalars]
    single += [{"a": int(number)} for number in (0.0, 1.0, -1.0)]
    nested: list[dict[str, Any]] = [{key: 1.0} for key in KEYS]
    nested += [{"a": {key: "b"}} for key in KEYS]
    deep: list[Any] = [1.0, True, "true", None, [True], {"b": 1.0}]
    nested += [{"a": {"b": value}, "b": value} for value in deep]
    return [{}, *single, *nested]


def image_rows() -> list[ImageRow]:
    """Rows that have every kind of value somewhere."""
    rng = np.random.default_rng(7)
    rows = []
    for index, metadata in enumerate(_metadatas()):
        vector = rng.normal(size=DIMENSION).astype(np.float32)
        rows.append(
            ImageRow(
                id=_image_id(index),
                vector=vector / np.linalg.norm(vector),
                tags={
                    TAGS[(index + step) % len(TAGS)]: CONFIDENCES[(index + step) % len(CONFIDENCES)]
                    for step in range(index % 4)
                },
                metadata=metadata,
                width=SIZES[index % len(SIZES)],
                height=SIZES[(index // 4) % len(SIZES)],
                created_at_ms=TIMES_MS[index % len(TIMES_MS)],
            )
        )
    return rows


def segment_rows() -> list[SegmentRow]:
    """Two segments for each of the images, which share its fields and have tags of their own."""
    return [
        SegmentRow(
            image_id=image.id,
            index=index,
            vector=image.vector if index == 0 else -image.vector,
            box=Box((0.0, 0.1, 0.3)[number % 3], (0.0, 0.1)[index], 0.5, math.sqrt(0.5)),
            area=AREAS[(number + index) % len(AREAS)],
            stability=0.9,
            tags={TAGS[(number * 2 + index) % len(TAGS)]: CONFIDENCES[number % len(CONFIDENCES)]} if number % 5 else {},
            image_tags=image.tags,
            metadata=image.metadata,
            width=image.width,
            height=image.height,
            created_at_ms=image.created_at_ms,
        )
        for number, image in enumerate(image_rows())
        for index in range(2)
    ]
