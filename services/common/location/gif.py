"""GIF files: blocks (GIF89a specification, appendix A)."""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from services.common.location.limits import MAX_BLOCKS, MAX_EXTENSION_BYTES, too_much

__all__ = ["check", "has_more_frames_than", "scrubbed"]

_IMAGE: Final = 0x2C
_EXTENSION: Final = 0x21
_END: Final = 0x3B
_CONTROL: Final = 0xF9
_APPLICATION: Final = 0xFF
# How often an animation repeats, and colours.
_HARMLESS: Final = (b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012")


def scrubbed(data: bytes) -> bytes:
    """The file up to its end block, without comments and the extensions of unknown applications (XMP among them)."""
    return b"".join(piece for piece in _blocks(data) if _stays(piece))


def check(data: bytes) -> None:
    """InvalidImage, reason IMAGE_METADATA, where its extensions are made to exhaust a reader."""
    size = sum(len(piece) for piece in _blocks(data) if piece[:1] == b"!" and not _is_control(piece))
    if size > MAX_EXTENSION_BYTES:
        raise too_much()


def has_more_frames_than(data: bytes, limit: int) -> bool:
    """Whether there are more images in the file; none of them is decoded."""
    frames = (piece for piece in _blocks(data) if piece[:1] == bytes((_IMAGE,)))
    return next(islice(frames, limit, None), None) is not None


def _is_control(piece: bytes) -> bool:
    return piece[:2] == bytes((_EXTENSION, _CONTROL))


def _stays(piece: bytes) -> bool:
    if piece[:1] != bytes((_EXTENSION,)) or _is_control(piece):
        return True
    return piece[1:2] == bytes((_APPLICATION,)) and piece[3:14] in _HARMLESS


def _blocks(data: bytes) -> Iterator[bytes]:
    """The head, then every image with its data, every extension, and the end; damage ends it with all that is left."""
    at = 13 + _table_bytes(data[10] if len(data) > 10 else 0)
    skipped = 0
    yield data[:at]
    while at < len(data):
        start, kind = at, data[at]
        if kind == _END:
            yield data[at : at + 1]
            return
        if kind == _IMAGE and at + 9 < len(data):
            at += 11 + _table_bytes(data[at + 9])
        elif kind == _EXTENSION:
            at += 2
        else:
            # Readers skip single bytes here.
            at, skipped = at + 1, skipped + 1
            if skipped > MAX_BLOCKS:
                raise too_much()
            continue
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
        yield data[start:at]


def _table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
