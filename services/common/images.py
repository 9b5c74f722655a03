"""Encoded pictures of strangers -> RGB pixels, within limits. The only file that opens an image.

Six formats are read: JPEG, PNG, WebP, GIF, BMP and TIFF. The content decides which it is, never a name. Only the first
frame of an animation is decoded. Colour profiles are not applied.
"""

import io
import math
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from services.common.errors import InvalidImage, SaccadeError
from services.common.location import check_metadata, orientation_of
from services.common.location.gif import has_more_frames_than
from services.common.pixel_room import PixelRoom

__all__ = ["ImageInfo", "ImageLimits", "begins_like_an_image", "decode", "decoded", "probe", "thumbnail"]

# Pillow's own guard is one number for the whole process, and warns before it refuses. Every picture is opened here,
# and here its declared size is held against the caller's limits before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None

_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_CONTENT_TYPES: Final = {
    "JPEG": "image/jpeg",
    # Several JPEGs in one file, as many phones write them; the first is the picture.
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
_MAGIC: Final = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
)
_TRANSPOSE: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TILE_SIDES: Final = (0x0142, 0x0143)
_BAND_PIXELS: Final = 1_000_000
_WHITE: Final = (255, 255, 255)
_THUMBNAIL_QUALITY: Final = 80


_room: Final = PixelRoom()


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What an image may be; beyond any of these it is refused with InvalidImage."""

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 100_000_000
    max_side: int = 30_000
    min_side: int = 8
    max_frames: int = 1_000


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What a picture's header says; width and height in pixels after EXIF orientation."""

    content_type: str
    width: int
    height: int


def probe(data: bytes, limits: ImageLimits, field: str = "image") -> ImageInfo:
    """Read the header alone: cheap, and no proof that the rest decodes.

    Raises:
        InvalidImage: reason IMAGE_EMPTY, IMAGE_TOO_LARGE (bytes), IMAGE_TOO_MANY_PIXELS, IMAGE_TOO_MANY_FRAMES,
            IMAGE_TOO_SMALL, IMAGE_METADATA, IMAGE_FORMAT, IMAGE_TRUNCATED or IMAGE_UNREADABLE; `field` is named.
    """
    with _opened(data, limits, field) as image:
        width, height = image.size
        if _orientation(image) >= 5:
            width, height = height, width
        return ImageInfo(_CONTENT_TYPES[image.format or ""], width, height)


@contextmanager
def decoded(data: bytes, limits: ImageLimits, field: str = "image", *, target_px: int = 0) -> Iterator[Image.Image]:
    """The whole picture in mode RGB, upright by its EXIF orientation, transparency over white.

    Inside, the process has room for its pixels: see `PixelRoom`.

    Args:
        data: The encoded picture.
        limits: What it may be.
        field: What errors call it.
        target_px: Where above 0, a JPEG may come out smaller, by a power of two, as long as its short side keeps at
            least this many pixels: several times faster. The aspect ratio is kept up to rounding.

    Raises:
        InvalidImage: as for `probe`; IMAGE_TRUNCATED where the end is missing.
        Overloaded: other threads decode so many pixels that there was no room for these in time.
    """
    with ExitStack() as held:
        with _opened(data, limits, field) as image:
            orientation = _orientation(image)
            if target_px > 0 and image.format in {"JPEG", "MPO"}:
                image.draft(None, (target_px, target_px))
            held.enter_context(_room.hold(image.width * image.height))
            image.load()
            rgb = _to_rgb(image)
        if (turn := _TRANSPOSE.get(orientation)) is not None:
            rgb = rgb.transpose(turn)
        yield rgb


def decode(data: bytes, limits: ImageLimits, field: str = "image", *, target_px: int = 0) -> Image.Image:
    """The same picture for whoever keeps it, and has it counted by nobody."""
    with decoded(data, limits, field, target_px=target_px) as image:
        return image


def thumbnail(data: bytes, limits: ImageLimits, *, side_px: int = 320, field: str = "image") -> bytes:
    """A small WebP without metadata, its longer side at most `side_px`; errors as for `decoded`."""
    with decoded(data, limits, field, target_px=side_px) as small:
        small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        small.save(out, "WEBP", quality=_THUMBNAIL_QUALITY)
    return out.getvalue()


@contextmanager
def _opened(data: bytes, limits: ImageLimits, field: str) -> Iterator[Image.Image]:
    """The picture, its header read and held against the limits; what goes wrong inside becomes InvalidImage."""
    if not data:
        raise InvalidImage("the image is empty", field=field, reason="IMAGE_EMPTY")
    if len(data) > limits.max_bytes:
        raise InvalidImage(
            f"the image has {len(data):,} bytes; at most {limits.max_bytes:,} are taken",
            field=field,
            reason="IMAGE_TOO_LARGE",
        )
    if not begins_like_an_image(data):
        raise InvalidImage(_what_it_is_instead(data), field=field, reason="IMAGE_FORMAT")
    try:
        # First, for the decoders would take what is made to exhaust them.
        check_metadata(data)
    except InvalidImage as exc:
        raise exc.at(field) from exc
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image, limits, field)
            _check_frames(image, data, limits, field)
            yield image
    except (SaccadeError, MemoryError):
        raise
    # Pillow's decoders raise nearly anything on damaged files: OSError, SyntaxError, struct.error, IndexError, ...
    except Exception as exc:
        if _is_cut_short(data) or "truncated" in str(exc):
            raise InvalidImage(
                "the image's end is missing; send the whole file", field=field, reason="IMAGE_TRUNCATED"
            ) from exc
        raise InvalidImage("the image is damaged and can not be decoded", field=field) from exc


def begins_like_an_image(data: bytes) -> bool:
    """Whether the first 12 bytes are those of a format that is read."""
    return data.startswith(_MAGIC) or (data.startswith(b"RIFF") and data[8:12] == b"WEBP")


def _what_it_is_instead(data: bytes) -> str:
    if data[:1_000].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "SVG, HTML and other markup are no pictures here, for they may hold scripts; send a PNG of it"
    return "the bytes are no JPEG, PNG, WebP, GIF, BMP or TIFF"


def _is_cut_short(data: bytes) -> bool:
    """Whether a file that does not decode lacks the end that its format prescribes."""
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data[-64:]
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-64:]
    if data.startswith(b"GIF"):
        return not data.rstrip(b"\0").endswith(b";")
    if data.startswith((b"RIFF", b"BM")):
        # Both declare the file's length: RIFF without its first 8 bytes, BMP as a whole.
        at, extra = (4, 8) if data.startswith(b"RIFF") else (2, 0)
        return len(data) < at + 4 or len(data) < struct.unpack_from("<I", data, at)[0] + extra
    return False


def _check_size(image: Image.Image, limits: ImageLimits, field: str) -> None:
    width, height = image.size
    if _tile_pixels(image) > limits.max_pixels:
        raise InvalidImage(
            f"the image is made of tiles with more than {limits.max_pixels:,} pixels each",
            field=field,
            reason="IMAGE_TOO_MANY_PIXELS",
        )
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise InvalidImage(
            f"the image has {width} x {height} pixels; at most {limits.max_pixels:,} in all and {limits.max_side:,} "
            "on a side are taken",
            field=field,
            reason="IMAGE_TOO_MANY_PIXELS",
        )
    if min(width, height) < limits.min_side:
        raise InvalidImage(
            f"the image has {width} x {height} pixels; it needs at least {limits.min_side} on each side",
            field=field,
            reason="IMAGE_TOO_SMALL",
        )


def _tile_pixels(image: Image.Image) -> int:
    """Pixels of one tile, which is decoded whole however little of the picture it covers; 0 where there is none."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    sides = [image.tag_v2.get(tag, 0) for tag in _TILE_SIDES]
    return math.prod(side for side in sides if isinstance(side, int))


def _check_frames(image: Image.Image, data: bytes, limits: ImageLimits, field: str) -> None:
    if image.format == "GIF":
        too_many = has_more_frames_than(data, limits.max_frames)
    elif image.format == "TIFF":
        # Every page is a step along a chain in the file: take no more steps than there may be pages.
        too_many = _has_frame(image, limits.max_frames)
    else:
        too_many = getattr(image, "n_frames", 1) > limits.max_frames
    if too_many:
        raise InvalidImage(
            f"the image has more than {limits.max_frames:,} frames", field=field, reason="IMAGE_TOO_MANY_FRAMES"
        )


def _has_frame(image: Image.Image, number: int) -> bool:
    try:
        image.seek(number)
    except EOFError:
        return False
    finally:
        image.seek(0)
    return True


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none, it can not be read, or Pillow applies it itself (TIFF)."""
    exif = image.info.get("exif")
    if image.format == "TIFF" or not isinstance(exif, bytes):
        return 1
    return orientation_of(exif.removeprefix(b"Exif\0\0"))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes as RGB: transparency over white, more than 8 bits brought down to 8."""
    if image.mode.startswith(("I", "F")):
        return _deep_grey_to_rgb(image)
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, _WHITE)
        rgb.paste(with_alpha, mask=with_alpha.getchannel("A"))
        return rgb
    return image.convert("RGB")


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """Grey of 16 bits by its upper 8; of 32 bits or floats, which have no fixed white, stretched from least to most."""
    deep = image.mode.startswith("I;16")
    low = high = 0.0
    if not deep:
        ends = [(float(band.min()), float(band.max())) for _, band in _bands(image)]
        low, high = min(least for least, _ in ends), max(most for _, most in ends)
    out = np.empty((image.height, image.width), np.uint8)
    for top, band in _bands(image):
        if deep:
            grey = band / np.float32(257)
        else:
            grey = (band - low) * np.float32(255 / (high - low)) if high > low else np.clip(band, 0, 255)
        out[top : top + len(band)] = np.rint(grey)
    return Image.fromarray(out).convert("RGB")


def _bands(image: Image.Image) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """A picture's values from the top down, each band with its first row: never all of them as floats at a time."""
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        yield top, np.nan_to_num(np.asarray(band).astype(np.float32), posinf=0, neginf=0)
