"""PNG files: chunks (PNG specification, third edition, 5 and 11)."""

import zlib
from collections.abc import Iterator
from typing import Final

from services.common.location.limits import MAX_BLOCKS, too_much
from services.common.location.tiff import check_exif, scrubbed_exif

__all__ = ["check", "scrubbed"]

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_END: Final = b"IEND"
_EXIF: Final = b"eXIf"
_HARMLESS: Final = frozenset(
    b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB iCCP cICP mDCV cLLI sBIT bKGD hIST pHYs sPLT tIME acTL fcTL fdAT".split()
)


def scrubbed(data: bytes) -> bytes:
    """The file up to its last chunk, with pixels, colours, frames and harmless fields of its EXIF; no texts."""
    out = [_SIGNATURE]
    for kind, piece in _chunks(data):
        if kind == _EXIF:
            if exif := scrubbed_exif(piece[8:-4]):
                out.append(_chunk(_EXIF, exif))
        elif kind in _HARMLESS:
            out.append(piece)
    return b"".join(out)


def check(data: bytes) -> None:
    """InvalidImage, reason IMAGE_METADATA, where its chunks are made to exhaust a reader."""
    for kind, piece in _chunks(data):
        if kind == _EXIF:
            check_exif(piece[8:-4])


def _chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at, count = len(_SIGNATURE), 0
    while at + 8 <= len(data):
        count += 1
        if count > MAX_BLOCKS:
            raise too_much()
        kind = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield kind, data[at:end]
        if kind == _END:
            return
        at = end
