"""WebP files: chunks of a RIFF (WebP container specification)."""

from collections.abc import Iterator
from typing import Final

from services.common.location.limits import MAX_BLOCKS, too_much
from services.common.location.tiff import check_exif, scrubbed_exif

__all__ = ["check", "scrubbed"]

_HEAD_BYTES: Final = 12
_EXIF_NAME: Final = b"Exif\0\0"
_EXTENDED: Final = b"VP8X"
_HARMLESS: Final = frozenset({b"VP8 ", b"VP8L", b"ALPH", b"ICCP", b"ANIM", b"ANMF"})
_HAS_EXIF: Final = 0x08
_HAS_XMP: Final = 0x04


def scrubbed(data: bytes) -> bytes:
    """The file without what is behind its RIFF, with pixels, colours, frames and harmless fields of its EXIF."""
    pieces: list[bytes] = []
    flags_at = flags = -1
    said_exif = False
    for kind, piece in _chunks(data):
        if kind == _EXTENDED and flags_at < 0 and len(piece) >= 9:
            flags_at, flags = len(pieces), piece[8] & ~(_HAS_EXIF | _HAS_XMP)
            said_exif = bool(piece[8] & _HAS_EXIF)
            pieces.append(piece)
        elif kind == b"EXIF" and said_exif and not flags & _HAS_EXIF:
            if exif := scrubbed_exif(_exif(piece)):
                pieces.append(_chunk(b"EXIF", exif))
                flags |= _HAS_EXIF
        elif kind in _HARMLESS:
            pieces.append(piece)
    if flags_at >= 0:
        extended = pieces[flags_at]
        pieces[flags_at] = extended[:8] + bytes((flags,)) + extended[9:]
    body = b"WEBP" + b"".join(pieces)
    missing = 8 + int.from_bytes(data[4:8], "little") - len(data)
    # A file that was cut short stays one that says so.
    return b"RIFF" + (len(body) + max(0, missing)).to_bytes(4, "little") + body


def check(data: bytes) -> None:
    """InvalidImage, reason IMAGE_METADATA, where its chunks are made to exhaust a reader."""
    for kind, piece in _chunks(data):
        if kind == b"EXIF":
            check_exif(_exif(piece))


def _exif(piece: bytes) -> bytes:
    return piece[8 : 8 + int.from_bytes(piece[4:8], "little")].removeprefix(_EXIF_NAME)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + len(body).to_bytes(4, "little") + body + b"\0" * (len(body) % 2)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at, count = _HEAD_BYTES, 0
    stop = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= stop:
        count += 1
        if count > MAX_BLOCKS:
            raise too_much()
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        yield data[at : at + 4], data[at : min(end, stop)]
        at = end
