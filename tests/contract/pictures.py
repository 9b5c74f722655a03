"""Pictures that callers send: good ones, strange ones, and ones that no service can use."""

import io
import struct
import zlib
from typing import Final

from PIL import Image, ImageDraw

__all__ = ["BAD", "MEGABYTE", "animated_gif", "encoded", "good"]

MEGABYTE: Final = 1_000_000


def good(colour: str = "red", patch: str = "yellow") -> bytes:
    """A JPEG of one colour with a patch of another in its upper left part."""
    image = Image.new("RGB", (96, 64), colour)
    ImageDraw.Draw(image).rectangle((12, 8, 47, 39), fill=patch)
    return encoded(image, "JPEG")


def encoded(image: Image.Image, kind: str) -> bytes:
    """The picture in a format of Pillow's."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def animated_gif() -> bytes:
    """Two frames, red and blue."""
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return buffer.getvalue()


def declared_png(width: int, height: int) -> bytes:
    """A PNG whose header declares a size that its few bytes of data do not have."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0")) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# Name -> the picture and the reason that it is refused with.
BAD: Final[dict[str, tuple[bytes, str]]] = {
    "empty": (b"", "IMAGE_EMPTY"),
    "truncated": (good()[:-200], "IMAGE_TRUNCATED"),
    "no image": (b"this is a text, and goes on for a while, as texts do" * 20, "IMAGE_FORMAT"),
    "1 x 1": (encoded(Image.new("RGB", (1, 1)), "PNG"), "IMAGE_TOO_SMALL"),
    "50,000 x 50,000 declared": (declared_png(50_000, 50_000), "IMAGE_TOO_MANY_PIXELS"),
    "60 MB": (good() + b"\0" * (60 * MEGABYTE), "IMAGE_TOO_LARGE"),
}
