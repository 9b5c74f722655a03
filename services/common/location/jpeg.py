"""JPEG files: segments (ITU T.81, annex B; JFIF; EXIF 2.32, 4.7)."""

import re
from collections.abc import Iterator
from typing import Final

from services.common.location.limits import MAX_BLOCKS, too_much
from services.common.location.tiff import check_exif, scrubbed_exif

__all__ = ["check", "scrubbed"]

_START: Final = b"\xff\xd8"
_END: Final = 0xD9
_SCAN: Final = 0xDA
# Frames, tables, restarts, scans.
_PICTURE: Final = frozenset({0, 0xD9, *range(0xC0, 0xD0), *range(0xDA, 0xE0)})
_EXIF: Final = b"Exif\0\0"
# A structure like that of EXIF, of the pictures behind the first one.
_PICTURES: Final = b"MPF\0"
# Segments of applications that pixels can not be read rightly without.
_HARMLESS: Final = ((0xE0, b"JFIF\0"), (0xE2, b"ICC_PROFILE\0"), (0xEE, b"Adobe"))
_MARKER: Final = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
# Inside a scan: what is no escaped byte and no restart, and among the codes that may follow a scan.
_AFTER_SCAN: Final = re.compile(rb"\xff+([\xc0-\xcf\xd9-\xdf\xe0-\xef\xfe])")
_MAX_EXIF_BYTES: Final = 1024 * 1024


def scrubbed(data: bytes) -> bytes:
    """The file up to the end of its first picture, with the tables, the scans and harmless fields of its EXIF."""
    out, seen = [_START], False
    for kind, piece in _pieces(data):
        if kind in _PICTURE or any(kind == code and piece[4:].startswith(name) for code, name in _HARMLESS):
            out.append(piece)
        elif kind == 0xE1 and piece[4:].startswith(_EXIF) and not seen:
            seen = True
            if exif := scrubbed_exif(piece[4 + len(_EXIF) :]):
                out.append(_segment(0xE1, _EXIF + exif))
    return b"".join(out)


def check(data: bytes) -> None:
    """InvalidImage, reason IMAGE_METADATA, where the segments before the first scan are made to exhaust a reader."""
    # Readers take the segments behind the first one for its continuation.
    exif = bytearray()
    for _, piece in _pieces(data, header=True):
        if piece[4:].startswith(_EXIF):
            exif += piece[4 + len(_EXIF) :]
        elif piece[4:].startswith(_PICTURES):
            check_exif(piece[4 + len(_PICTURES) :])
        if len(exif) > _MAX_EXIF_BYTES:
            raise too_much()
    check_exif(bytes(exif))


def _segment(kind: int, body: bytes) -> bytes:
    return bytes((0xFF, kind)) + (len(body) + 2).to_bytes(2, "big") + body


def _pieces(data: bytes, *, header: bool = False) -> Iterator[tuple[int, bytes]]:
    """Segments, each with its code, and scans with 0; up to the first scan, or to the end of the picture.

    What stands between segments, which readers skip, is left out.
    """
    at, scanning = len(_START), False
    count = skipped = 0
    while True:
        found = (_AFTER_SCAN if scanning else _MARKER).search(data, at)
        if found is None:
            if scanning:
                yield 0, data[at:]
            return
        start = found.end() - 2
        if scanning:
            yield 0, data[at:start]
        else:
            skipped += start - at
        count += 1
        if count > MAX_BLOCKS or (header and skipped > MAX_BLOCKS):
            raise too_much()
        kind = found[1][0]
        if kind == _END:
            yield kind, data[start : start + 2]
            return
        if kind == 0x01 or 0xD0 <= kind <= 0xD8:
            at, scanning = start + 2, False
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if kind == _SCAN and header:
            return
        yield kind, data[start:end]
        at, scanning = max(end, start + 4), kind == _SCAN
