"""Pictures that say where they were taken, in every way that their formats know."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np
from PIL import Image, TiffImagePlugin

__all__ = ["FORMS", "PLACE", "exif_block", "located", "upright"]

PLACE: Final = b"48.85837N,2.29448E"
"""Stands in all metadata that has room for words."""

_RATIONALS: Final = tuple(TiffImagePlugin.IFDRational(value, 7_777_777) for value in (1_234_567, 2_345_678, 3_456_789))
GPS_BYTES: Final = (
    *(struct.pack(f"{order}I", value) for order in "<>" for value in (1_234_567, 2_345_678, 3_456_789, 7_777_777)),
)
_XMP: Final = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description exif:GPSLatitude="' + PLACE + b'"/></x:xmpmeta>'


def upright(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 255, (48, 64, 3), np.uint8)
    return Image.fromarray(pixels).resize((96, 72), Image.Resampling.BICUBIC).convert(mode)


def exif_of(orientation: int, order: str = "<") -> Image.Exif:
    exif = Image.Exif()
    exif.endian = order
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    exif[0x0132] = "2026:11:28 12:00:00"
    exif[0x9C9C] = PLACE
    exif[0x8769] = {0x9003: "2026:11:28 11:59:59", 0x829A: TiffImagePlugin.IFDRational(1, 250), 0x927C: PLACE * 3}
    exif[0x8769][0x9286] = b"ASCII\0\0\0" + PLACE
    exif[0x8825] = {1: "N", 2: _RATIONALS, 3: "E", 4: _RATIONALS, 27: PLACE}
    return exif


def exif_block(orientation: int = 6, order: str = "<") -> bytes:
    """A block without its name."""
    return exif_of(orientation, order).tobytes().removeprefix(b"Exif\0\0")


def jpeg(orientation: int = 6, **options: Any) -> bytes:
    out = io.BytesIO()
    upright().save(out, "JPEG", exif=exif_of(orientation), comment=PLACE, icc_profile=b"profile" * 9, **options)
    data = out.getvalue()
    more = [
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + _XMP),
        (0xED, b"Photoshop 3.0\0" + PLACE),
        (0xE6, b"GoPro" + PLACE),
    ]
    more += [(0xE1, b"Exif\0\0" + exif_block()), (0xE2, b"FPXR\0" + PLACE)]
    segments = b"".join(struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body for kind, body in more)
    first = 4 + struct.unpack_from(">H", data, 4)[0]
    # Behind the picture: a film, as phones append it.
    return data[:first] + segments + data[first:] + b"\0\0\0\x18ftypmp42" + PLACE


def png(orientation: int = 6, **options: Any) -> bytes:
    out = io.BytesIO()
    upright("P" if options.pop("palette", False) else "RGB").save(out, "PNG", exif=exif_of(orientation), **options)
    data = out.getvalue()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    texts = chunk(b"tEXt", b"Comment\0" + PLACE) + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _XMP)
    texts += chunk(b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(PLACE)) + chunk(b"caBX", PLACE)
    return data[:33] + texts + chunk(b"gAMA", struct.pack(">I", 45_455)) + data[33:] + PLACE


def webp(orientation: int = 6, **options: Any) -> bytes:
    out = io.BytesIO()
    upright().save(out, "WEBP", exif=exif_of(orientation), xmp=_XMP, **options)
    return out.getvalue() + PLACE


def gif(_: int = 1, **options: Any) -> bytes:
    out = io.BytesIO()
    upright("P").save(out, "GIF", comment=PLACE, loop=3, **options)
    data = out.getvalue()
    at = 13 + (3 << ((data[10] & 7) + 1))
    xmp = b"!\xff\x0bXMP DataXMP" + _XMP + b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    return data[:at] + xmp + data[at:] + PLACE


def tiff(orientation: int = 6, **options: Any) -> bytes:
    out = io.BytesIO()
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[0x0112], info[0x010F], info[0x02BC], info[0x83BB], info[0x8649] = orientation, "Maker", _XMP, PLACE, PLACE
    info[0x87AF], info[0x8830 + 0x13B] = (1, 2, 3, 4), 7
    # Pillow writes these right only for one page that libtiff does not compress.
    if not {"compression", "save_all"} & set(options):
        info[0x8769] = {0x9003: "2026:11:28 11:59:59", 0x927C: PLACE * 3}
        info[0x8825] = {1: "N", 2: _RATIONALS, 27: PLACE}
    upright().save(out, "TIFF", tiffinfo=info, **options)
    return out.getvalue()


def _frames(form: Callable[..., bytes]) -> Callable[[int], bytes]:
    more = [Image.new("RGB", (96, 72), colour) for colour in ("red", "lime")]
    return lambda orientation: form(orientation, save_all=True, append_images=more)


FORMS: Final[dict[str, Callable[[int], bytes]]] = {
    "jpeg": jpeg,
    "jpeg progressive": lambda orientation: jpeg(orientation, progressive=True),
    "png": png,
    "png palette": lambda orientation: png(orientation, palette=True),
    "png animation": _frames(png),
    "webp": webp,
    "webp lossless": lambda orientation: webp(orientation, lossless=True),
    "webp animation": _frames(webp),
    "gif": gif,
    "gif animation": _frames(gif),
    "tiff": tiff,
    "tiff deflate": lambda orientation: tiff(orientation, compression="tiff_adobe_deflate"),
    "tiff big": lambda orientation: tiff(orientation, big_tiff=True),
    "tiff pages": _frames(tiff),
}


@cache
def located(form: str, orientation: int = 6) -> bytes:
    """A picture of a form in FORMS, with places wherever it has room for them."""
    return FORMS[form](orientation)
