"""Files that are made to harm whoever opens them."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.common.errors import InvalidImage, Overloaded
from services.common.images import ImageLimits, decode, decoded, probe, thumbnail
from services.common.location import without_location
from services.common.pixel_room import PixelRoom

LIMITS = ImageLimits()


def reason(data: bytes, limits: ImageLimits = LIMITS) -> str:
    """The reason with which a file is refused; with another one, or by another error, nobody refuses it."""
    with pytest.raises(InvalidImage) as caught:
        decode(data, limits, "image.data")
    assert caught.value.field == "image.data"
    return caught.value.reason


def encoded(form: str, image: Image.Image | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    (image or Image.new("RGB", (60, 40), (200, 100, 50))).save(out, form, **options)
    return out.getvalue()


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A small picture with more chunks behind its head."""
    data = encoded("PNG")
    made = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks]
    return data[:33] + b"".join(made) + data[33:]


def tiff(fields: dict[int, int], data: bytes) -> bytes:
    """A picture of 64 x 64 pixels in deflated RGB; `fields` come on top."""
    common = {256: 64, 257: 64, 258: 8, 259: 8, 262: 2, 277: 3, 284: 1}
    count = len(common) + len(fields) + 2
    at = 8 + 2 + 12 * count + 4
    start, length = (324, 325) if 322 in fields else (273, 279)
    every = sorted({**common, **fields, start: at, length: len(data)}.items())
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in every)
    return b"II*\0" + struct.pack("<IH", 8, count) + table + struct.pack("<I", 0) + data


@pytest.mark.parametrize("side", [10_016, 65_520, 2**31 - 16])
def test_a_tile_far_larger_than_the_picture(side: int) -> None:
    assert reason(tiff({322: side, 323: side}, zlib.compress(b"\0" * 10_000))) == "IMAGE_TOO_MANY_PIXELS"


def test_strips_that_say_they_are_endless_take_no_more_than_the_picture() -> None:
    data = tiff({278: 2**32 - 1}, zlib.compress(bytes(64 * 64 * 3)))
    assert decode(data, LIMITS).size == (64, 64)


@pytest.mark.parametrize(
    ("width", "height"), [(2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (2**16, 2**16), (100_000_001, 1), (0, 40), (40, 0)]
)
def test_sizes_that_no_picture_has(width: int, height: int) -> None:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = encoded("PNG")
    data = data[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + data[33:]
    assert reason(data) in {"IMAGE_TOO_MANY_PIXELS", "IMAGE_UNREADABLE", "IMAGE_TOO_SMALL"}


@pytest.mark.parametrize(
    "chunk",
    [
        (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000), 9)),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(50_000_000), 9)),
        (b"iCCP", b"profile\0\0" + zlib.compress(bytes(50_000_000), 9)),
    ],
    ids=["zTXt", "iTXt", "iCCP"],
)
def test_a_chunk_that_unpacks_into_far_more_is_refused_or_left_out(chunk: tuple[bytes, bytes]) -> None:
    data = png(chunk)
    try:
        assert decode(data, LIMITS).size == (60, 40)
    except InvalidImage as exc:
        assert exc.reason == "IMAGE_UNREADABLE"


def test_pixels_that_unpack_into_more_than_the_picture_holds() -> None:
    head = encoded("PNG")[:33]
    body = zlib.compress(bytes(30_000_000), 9)
    data = head + struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
    assert decode(data + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND")), LIMITS).size == (
        60,
        40,
    )


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_only_the_first_frame_of_many_is_decoded(form: str) -> None:
    frames = [Image.new("RGB", (60, 40), (shade, shade % 2 * 250, 0)) for shade in range(200)]
    data = encoded(form, frames[0], save_all=True, append_images=frames[1:], duration=10, lossless=True)
    assert decode(data, LIMITS).size == (60, 40)
    assert reason(data, ImageLimits(max_frames=100)) == "IMAGE_TOO_MANY_FRAMES"


TAILS = [b"PK\x03\x04" + bytes(40), b"<html><script>alert(1)</script></html>", b"%PDF-1.7", b"MZ" + bytes(60)]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("tail", TAILS, ids=["zip", "html", "pdf", "exe"])
def test_a_file_that_is_two_things_is_kept_as_the_picture_alone(form: str, tail: bytes) -> None:
    data = encoded(form) + tail
    assert probe(data, LIMITS).content_type == f"image/{form.lower()}"
    assert without_location(data) == encoded(form)


def test_script_inside_a_picture_goes_where_pictures_have_room_for_words() -> None:
    script = b"*/=alert(1);/*"
    for data in (
        png((b"tEXt", b"Comment\0" + script)),
        encoded("JPEG", comment=script),
        encoded("GIF", comment=script),
    ):
        assert script in data
        assert script not in without_location(data)


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b"\xef\xbb\xbf<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><svg>&a;</svg>",
        b"\n  <!doctype html><script>alert(1)</script>",
    ],
)
def test_markup_is_refused_with_a_word_on_why(data: bytes) -> None:
    with pytest.raises(InvalidImage, match="scripts") as caught:
        decode(data, LIMITS)
    assert caught.value.reason == "IMAGE_FORMAT"


@pytest.mark.parametrize("form", ["EPS", "PDF", "ICNS", "PCX", "SGI", "MSP", "XBM", "DDS", "AVIF"])
def test_no_other_decoder_of_the_library_is_reached(form: str) -> None:
    image = Image.new("1" if form in {"MSP", "XBM"} else "RGB", (64, 64))
    assert reason(encoded(form, image)) == "IMAGE_FORMAT"


@pytest.mark.parametrize("mode", ["F", "I", "I;16"])
def test_deep_grey_in_bands_is_what_it_is_at_once(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = {"F": np.float32, "I": np.int32, "I;16": np.uint16}[mode]
    values = np.random.default_rng(5).integers(0, 60_000, (70, 90)).astype(kind)
    data = encoded("TIFF", Image.fromarray(values))
    at_once = np.asarray(decode(data, LIMITS))
    monkeypatch.setattr("services.common.images._BAND_PIXELS", 200)
    np.testing.assert_array_equal(np.asarray(decode(data, LIMITS)), at_once)


def test_nothing_is_decoded_without_room_for_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    room = PixelRoom(60 * 40 * 3 // 2, wait_s=0)
    monkeypatch.setattr("services.common.images._room", room)
    data = encoded("PNG")
    with room.hold(60 * 40), pytest.raises(Overloaded):
        decode(data, LIMITS)
    with decoded(data, LIMITS), pytest.raises(Overloaded):
        thumbnail(data, LIMITS)
    assert decode(data, LIMITS).size == (60, 40)


def test_a_thumbnail_carries_no_metadata() -> None:
    small = thumbnail(encoded("JPEG", comment=b"words", xmp=b"<x/>", icc_profile=b"p" * 200), LIMITS)
    assert [small[12:16], b"XMP " in small, b"ICCP" in small, b"EXIF" in small] == [b"VP8 ", False, False, False]
