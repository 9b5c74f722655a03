"""TIFF structures, as TIFF files and EXIF blocks are made of, without what may tell a place.

Such a structure is a chain of directories of fields; what is larger than four bytes (eight in a BigTIFF) stands
elsewhere, and its field says where (TIFF 6.0, section 2; EXIF 2.32, 4.6). Places are in the directory of GPS, in XMP,
IPTC and GeoTIFF fields, and in what makers and editors add in forms of their own. So fields are kept by a list of those
that are known to be harmless. Nothing is moved: what goes is written over with zeros, and all offsets stay right.
"""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from services.common.location.limits import MAX_BLOCKS, too_much

__all__ = ["check_exif", "check_file", "orientation_of", "scrubbed_exif", "scrubbed_file"]

_Range = tuple[int, int]

_ORIENTATION: Final = 0x0112
_SUB_DIRECTORIES: Final = 0x014A
_EXIF: Final = 0x8769
_GPS: Final = 0x8825
_INTEROP: Final = 0xA005
_FIRST_PRIVATE: Final = 0x8000
# XMP, and ratings.
_NOT_OF_IMAGE: Final = frozenset({0x02BC, 0x4746, 0x4749})
# Colour filters, copyright, colour profile, no-data; and what DNG says of raw pixels, without what it hides in there.
_PRIVATE_OF_IMAGE: Final = (
    frozenset({0x828D, 0x828E, 0x8298, _EXIF, 0x8773, 0xA481, *range(0x80E3, 0x80E7), *range(0xC5F2, 0xC7F0)})
) - {0xC634, 0xC68B, 0xC68C, 0xC6FE}
# How the picture was taken: EXIF 2.32 without the maker's note, comments, other directories and what was around.
_OF_EXIF: Final = frozenset(
    {0x829A, 0x829D, 0x8822, 0x8824, 0x8827, 0x8828, 0x9000, 0x9003, 0x9004, 0x9101, 0x9102, 0x9214}
    | {0xA20B, 0xA20C, 0xA20E, 0xA20F, 0xA210, 0xA214, 0xA215, 0xA217, 0xA300, 0xA301, 0xA302, 0xA420, 0xA500}
    | {*range(0x8830, 0x8836), *range(0x9010, 0x9013), *range(0x9201, 0x920B), *range(0x9290, 0x9293)}
    | {*range(0xA000, 0xA004), *range(0xA401, 0xA40D), *range(0xA430, 0xA436), *range(0xA460, 0xA463)}
)
# Where pixels begin, and the field that says how many bytes each of these places has.
_PIXELS: Final = {0x0111: 0x0117, 0x0144: 0x0145, 0x0201: 0x0202}
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_UNSIGNED: Final = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MAX_DIRECTORIES: Final = 4_096
# Readers copy every value. A file may name each of its bytes a few times, but not thousands of times.
_MAX_NAMED: Final = 2
_NAMED_ANYWAY: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Field:
    """One field; its value is the bytes from `at` to `end` of the file, which may reach beyond it."""

    tag: int
    kind: int
    count: int
    raw: bytes
    at: int
    end: int
    inside: bool


@dataclass(frozen=True, slots=True)
class _Directory:
    at: int
    fields: list[_Field]
    following: int
    end: int


class _Reader:
    """Reads directories, each once, and no more than a reader can bear."""

    def __init__(self, data: bytes) -> None:
        """Read the head; ValueError where there is none."""
        order, version = {b"II": "<", b"MM": ">"}.get(data[:2], ""), data[2:4]
        self.big = b"+" in version
        self.head_bytes = 16 if self.big else 8
        if not order or len(data) < self.head_bytes or version not in {b"*\0", b"\0*", b"+\0", b"\0+"}:
            raise ValueError("no TIFF structure")
        self.data = data
        self.order = order
        self.word = "Q" if self.big else "I"
        self.first = self._number(self.word, 8 if self.big else 4)
        self._read: set[int] = set()
        self._fields = 0
        self._named = 0

    def directory(self, at: int) -> _Directory | None:
        """The directory at an offset; None where there is none, or it was read before.

        Raises:
            InvalidImage: reason IMAGE_METADATA, where there are too many fields, or they name the same bytes often.
        """
        code, field_bytes = ("Q", 20) if self.big else ("H", 12)
        start = at + struct.calcsize(code)
        if at < self.head_bytes or start > len(self.data) or at in self._read:
            return None
        self._read.add(at)
        end = start + self._number(code, at) * field_bytes
        if end > len(self.data):
            return None
        self._fields += (end - start) // field_bytes
        if self._fields > MAX_BLOCKS or len(self._read) > _MAX_DIRECTORIES:
            raise too_much()
        fields = [self._field(i, field_bytes) for i in range(start, end, field_bytes)]
        self._named += sum(min(each.end, len(self.data)) - min(each.at, len(self.data)) for each in fields)
        if self._named > _MAX_NAMED * len(self.data) + _NAMED_ANYWAY:
            raise too_much()
        word_bytes = struct.calcsize(self.word)
        has_next = end + word_bytes <= len(self.data)
        following = self._number(self.word, end) if has_next else 0
        return _Directory(at, fields, following, end + word_bytes if has_next else end)

    def numbers(self, each: _Field) -> tuple[int, ...]:
        """The whole numbers that a field holds; none where it holds others, or they are not there."""
        code = _UNSIGNED.get(each.kind)
        if code is None or each.end > len(self.data):
            return ()
        return struct.unpack_from(f"{self.order}{each.count}{code}", self.data, each.at)

    def table(self, directory: _Directory, fields: list[_Field], following: int) -> bytes:
        """A directory of these fields, as long as the one in whose place it goes."""
        count = struct.pack(f"{self.order}{'Q' if self.big else 'H'}", len(fields))
        link = struct.pack(f"{self.order}{self.word}", following)
        size = directory.end - directory.at
        return (count + b"".join(each.raw for each in fields) + link).ljust(size, b"\0")[:size]

    def _field(self, start: int, field_bytes: int) -> _Field:
        tag, kind, count = struct.unpack_from(f"{self.order}HH{self.word}", self.data, start)
        raw = self.data[start : start + field_bytes]
        room = struct.calcsize(self.word)
        size = count * _SIZES.get(kind, 1)
        inside = size <= room
        at = start + field_bytes - room
        if not inside:
            at = self._number(self.word, at)
        return _Field(tag, kind, count, raw, at, at + size, inside)

    def _number(self, code: str, at: int) -> int:
        return int(struct.unpack_from(f"{self.order}{code}", self.data, at)[0])


@dataclass
class _Scrub:
    """What of a structure stays, what goes, and the directories as they are without that."""

    reader: _Reader
    kept: list[_Range] = field(default_factory=list)
    erased: list[_Range] = field(default_factory=list)
    tables: list[_Range] = field(default_factory=list)
    written: list[bytes] = field(default_factory=list)

    def chain(self, at: int) -> None:
        """All directories from `at` on."""
        directory = self.reader.directory(at)
        while directory is not None:
            following = self.reader.directory(directory.following)
            self.one(directory, _of_image, following.at if following is not None else 0)
            directory = following

    def one(self, directory: _Directory, stays: Callable[[int], bool], following: int = 0) -> None:
        """One directory, and those that its fields lead to."""
        left = [each for each in directory.fields if self._stays(each, stays)]
        if stays is _of_image:
            self._keep_pixels(left)
        self.tables.append((directory.at, directory.end))
        self.written.append(self.reader.table(directory, left, following))

    def _stays(self, each: _Field, stays: Callable[[int], bool]) -> bool:
        below = {_EXIF: _of_exif, _SUB_DIRECTORIES: _of_sub_image}.get(each.tag)
        if not stays(each.tag) or each.kind not in _SIZES:
            self._erase(each)
            return False
        if below is not None:
            found = [self.reader.directory(at) for at in self.reader.numbers(each)]
            directories = [directory for directory in found if directory is not None]
            if not found or len(directories) < len(found):
                return False
            for directory in directories:
                self.one(directory, below)
        if not each.inside:
            self.kept.append((each.at, each.end))
        return True

    def _erase(self, each: _Field) -> None:
        if not each.inside:
            self.erased.append((each.at, each.end))
        if each.tag not in {_EXIF, _GPS, _INTEROP}:
            return
        for at in self.reader.numbers(each):
            directory = self.reader.directory(at)
            if directory is not None:
                self.erased.append((directory.at, directory.end))
                self.erased += [(inner.at, inner.end) for inner in directory.fields if not inner.inside]

    def _keep_pixels(self, fields: list[_Field]) -> None:
        by_tag = {each.tag: each for each in fields}
        for starts, lengths in _PIXELS.items():
            if starts in by_tag and lengths in by_tag:
                numbers = self.reader.numbers(by_tag[starts]), self.reader.numbers(by_tag[lengths])
                self.kept += [(at, at + length) for at, length in zip(*numbers, strict=False)]

    @property
    def leaves_any(self) -> bool:
        """Whether a directory has fields left: without any, and none behind it, it is all zeros."""
        return any(any(table) for table in self.written)

    def write(self, out: bytearray) -> None:
        """Put what stays into `out`: values and pixels as they were, directories as they are now."""
        data = self.reader.data
        for start, end in _merged(self.kept, len(data)):
            out[start:end] = data[start:end]
        for (start, end), table in zip(self.tables, self.written, strict=True):
            out[start:end] = table


def check_exif(exif: bytes) -> None:
    """InvalidImage, reason IMAGE_METADATA, where an EXIF block, without its name, is made to exhaust its readers."""
    reader = _reader(exif)
    if reader is not None:
        reader.directory(reader.first)


def check_file(data: bytes) -> None:
    """The same for a TIFF file."""
    reader = _reader(data)
    at = reader.first if reader is not None else 0
    while reader is not None and (directory := reader.directory(at)) is not None:
        at = directory.following


def orientation_of(exif: bytes) -> int:
    """The orientation, 1 to 8, that an EXIF block, without its name, gives; 1 where it gives none that can be read."""
    reader = _reader(exif)
    directory = reader.directory(reader.first) if reader is not None else None
    if reader is None or directory is None:
        return 1
    values = next((reader.numbers(each) for each in directory.fields if each.tag == _ORIENTATION), ())
    return values[0] if len(values) == 1 and 1 <= values[0] <= 8 else 1


def scrubbed_exif(exif: bytes) -> bytes:
    """An EXIF block, without its name, that holds nothing but harmless fields; empty where it can not be read.

    The small picture in it goes too: editors forget to change it.
    """
    reader = _reader(exif)
    directory = reader.directory(reader.first) if reader is not None else None
    if reader is None or directory is None:
        return b""
    scrub = _Scrub(reader)
    scrub.one(directory, _of_image)
    if not scrub.leaves_any:
        return b""
    out = bytearray(len(exif))
    out[: reader.head_bytes] = exif[: reader.head_bytes]
    scrub.write(out)
    ends = [end for _, end in (*scrub.tables, *scrub.kept) if end <= len(exif)]
    return bytes(out[: max(ends)])


def scrubbed_file(data: bytes) -> bytes:
    """A TIFF file whose directories hold nothing but harmless fields; as it is where it can not be read."""
    reader = _reader(data)
    if reader is None:
        return data
    scrub = _Scrub(reader)
    scrub.chain(reader.first)
    out = bytearray(data)
    for start, end in _merged(scrub.erased, len(data)):
        out[start:end] = bytes(end - start)
    scrub.write(out)
    return bytes(out)


def _reader(data: bytes) -> _Reader | None:
    try:
        return _Reader(data)
    except ValueError:
        return None


def _of_image(tag: int) -> bool:
    return tag in _PRIVATE_OF_IMAGE if tag >= _FIRST_PRIVATE else tag not in _NOT_OF_IMAGE


def _of_sub_image(tag: int) -> bool:
    return _of_image(tag) and tag not in {_SUB_DIRECTORIES, _EXIF}


def _of_exif(tag: int) -> bool:
    return tag in _OF_EXIF


def _merged(ranges: Iterable[_Range], size: int) -> list[_Range]:
    """The same bytes, each once, as far as there are any."""
    merged: list[_Range] = []
    for start, end in sorted((max(start, 0), min(end, size)) for start, end in ranges):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
