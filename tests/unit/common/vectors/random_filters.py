"""Thousands of random filters from a seed, and which rows each passes by the plain model of `filter_model`."""

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, TypeVar

from google.protobuf import struct_pb2

from saccade.common.v1 import types_pb2
from services.common.errors import InvalidArgument
from services.common.vectors import FilterTarget, ImageRow, SegmentRow, compile_filter
from tests.unit.common.vectors.filter_model import (
    AREAS,
    CONFIDENCES,
    KEYS,
    NUMBERS,
    TAGS,
    TEXTS,
    TIMES_MS,
    image_rows,
    passes,
    segment_rows,
)

__all__ = [
    "IMAGES",
    "SEGMENTS",
    "Expected",
    "expected_of",
    "image_in_copy",
    "in_copy",
    "random_filter",
    "segment_in_copy",
]

Message = types_pb2.Filter
MAX_LEVELS: Final = 12
MAX_LEAVES: Final = 24
_CHARACTERS: Final = "\"'\\[](){}<>=!&|%$*.,:;#@~^`?+-/ \t\n\r\x00\x1b\x7fabN01äß€漢😀\u200b\u2028\ufeff"
_OPERATORS: Final = (
    '" or ""=="',
    "' or 1==1",
    '") or true or ("',
    "a == 1 and not (b in [1])",
    'exists metadata["a"]',
    "{name}",
    "$meta",
    "null",
    "array_contains(tags,",
    "like %",
    "\\",
    "\\\\",
    '\\"',
)
_SIZES: Final = (99.5, 100.0, 100.5, 101.0, 640.0, 4000.0, -1e30, 1e30)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Expected:
    """A filter, the expression that it becomes, and the keys of the rows that it passes, sorted."""

    message: Message
    target: FilterTarget
    where: str
    passing: tuple[str, ...]


class _Maker:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - no secret
        self.leaves = 0

    def filter(self, target: FilterTarget, levels: int) -> Message:
        """One level of a filter that has at most `levels` below it."""
        if levels == 0 or self.leaves > MAX_LEAVES or self.random.random() < 0.3:
            self.leaves += 1
            return self._leaf(target)
        match self.random.randrange(4):
            case 0:
                return Message(negated=self.filter(target, levels - 1))
            case 1:
                return Message(all=Message.All(filters=self._several(target, levels)))
            case _:
                return Message(any=Message.Any(filters=self._several(target, levels)))

    def _several(self, target: FilterTarget, levels: int) -> list[Message]:
        return [self.filter(target, levels - 1) for _ in range(self.random.randint(1, 3))]

    def _leaf(self, target: FilterTarget) -> Message:
        makers: list[Callable[[], Message]] = [
            self._metadata,
            self._metadata,
            self._metadata,
            self._tags,
            self._tags,
            lambda: Message(create_time=self._range([ms / 1000 for ms in TIMES_MS] + [0.0005, -5.0, 1e12])),
            lambda: Message(width=self._range(list(_SIZES))),
            lambda: Message(height=self._range(list(_SIZES))),
            self._ids,
        ]
        if target is FilterTarget.SEGMENTS:
            makers += [
                lambda: Message(segment_area_fraction=self._range([*AREAS, 0.0, 0.299999, 0.3000001])),
                self._within,
                self._within,
            ]
        return self.random.choice(makers)()

    def _metadata(self) -> Message:
        path = [self._key() for _ in range(self.random.choice((1, 1, 2, 3)))]
        match self.random.randrange(4):
            case 0:
                return Message(metadata=Message.Metadata(path=path, equals=self._value()))
            case 1:
                values = struct_pb2.ListValue(values=[self._value() for _ in range(self.random.randint(1, 4))])
                return Message(metadata=Message.Metadata(path=path, any_of=values))
            case 2:
                return Message(metadata=Message.Metadata(path=path, range=self._range(NUMBERS)))
            case _:
                return Message(metadata=Message.Metadata(path=path, exists=self.random.random() < 0.5))

    def _tags(self) -> Message:
        names = [self._one_of(TAGS, lambda: self._text() or "x") for _ in range(self.random.randint(1, 4))]
        least = self.random.choice((0.0, 0.0, *CONFIDENCES, 0.299999, 0.3000001))
        return Message(tags=Message.Tags(names=names, all=self.random.random() < 0.5, min_confidence=least))

    def _ids(self) -> Message:
        return Message(ids=Message.Ids(ids=[self.random.choice(IMAGES).id for _ in range(self.random.randint(1, 5))]))

    def _within(self) -> Message:
        x0, y0 = self.random.choice((0.0, 0.1, 0.3)), self.random.choice((0.0, 0.1, 0.05))
        x1, y1 = self.random.choice((0.5, 0.499, 1.0)), self.random.choice((0.7, 0.75, 1.0))
        return Message(segment_within=types_pb2.BoundingBox(x0=x0, y0=y0, x1=x1, y1=y1))

    def _range(self, ends: list[float]) -> Message.Range:
        low, high = sorted((self.random.choice(ends), self.random.choice(ends)))
        match self.random.randrange(3):
            case 0:
                return Message.Range(min=low)
            case 1:
                return Message.Range(max=high)
            case _:
                return Message.Range(min=low, max=high)

    def _value(self) -> struct_pb2.Value:
        match self.random.randrange(4):
            case 0:
                return struct_pb2.Value(bool_value=self.random.random() < 0.5)
            case 1:
                return struct_pb2.Value(number_value=self._one_of(NUMBERS, lambda: self.random.gauss(0, 10)))
            case _:
                return struct_pb2.Value(string_value=self._one_of(TEXTS, self._text))

    def _key(self) -> str:
        return self._one_of(("a", "b"), lambda: self._one_of(KEYS, self._text))

    def _text(self) -> str:
        match self.random.randrange(3):
            case 0:
                return self.random.choice(_OPERATORS)
            case 1:
                return "".join(self.random.choices(_CHARACTERS, k=self.random.randint(0, 8)))
            case _:
                points = [self.random.randrange(1, sys.maxunicode) for _ in range(self.random.randint(1, 4))]
                return "".join(chr(point) for point in points if not 0xD800 <= point <= 0xDFFF)

    def _one_of(self, known: list[_T] | tuple[_T, ...], other: Callable[[], _T]) -> _T:
        """Mostly what rows have."""
        return self.random.choice(known) if self.random.random() < 0.7 else other()


def random_filter(seed: int) -> tuple[Message, FilterTarget]:
    """A well-formed filter of any kind, up to 12 levels deep, and what it is asked of."""
    maker = _Maker(seed)
    target = maker.random.choice((FilterTarget.IMAGES, FilterTarget.IMAGES, *FilterTarget))
    return maker.filter(target, maker.random.choice((1, 2, 3, 4, MAX_LEVELS))), target


@cache
def expected_of(seed: int) -> Expected:
    """A filter and what it should find. One that makes too many comparisons gives way to that of another seed."""
    message, target = random_filter(seed)
    try:
        where = compile_filter(message, target)
    except InvalidArgument as refused:
        assert refused.reason == "FILTER_TOO_LARGE", refused
        return expected_of(seed + 1_000_000)
    rows: Sequence[ImageRow | SegmentRow] = IMAGES if target is FilterTarget.IMAGES else SEGMENTS
    return Expected(message, target, where, tuple(sorted(row.id for row in rows if passes(message, row, target))))


def image_in_copy(row: ImageRow, copy: int) -> ImageRow:
    """The row as it stands in a copy of all rows."""
    return replace(row, id=_id_in_copy(row.id, copy))


def segment_in_copy(row: SegmentRow, copy: int) -> SegmentRow:
    """The row as it stands in a copy of all rows."""
    return replace(row, image_id=_id_in_copy(row.image_id, copy))


def in_copy(message: Message, copy: int) -> Message:
    """A filter that means of a copy's rows what `message` means of the rows."""
    moved = Message()
    moved.CopyFrom(message)
    _move(moved, copy)
    return moved


def _move(message: Message, copy: int) -> None:
    match message.WhichOneof("kind"):
        case "all" | "any" as kind:
            for inner in getattr(message, kind).filters:
                _move(inner, copy)
        case "negated":
            _move(message.negated, copy)
        case "ids":
            message.ids.ids[:] = [_id_in_copy(each, copy) for each in message.ids.ids]


def _id_in_copy(image_id: str, copy: int) -> str:
    return f"{copy}.{image_id}"


IMAGES: Final = image_rows()
# One segment of each image, the first of one and the second of the next.
SEGMENTS: Final = [row for at, row in enumerate(segment_rows()) if at % 2 == at // 2 % 2]
