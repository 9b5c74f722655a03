"""Pictures of strangers: what is read, how, and what is refused."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.common.errors import InvalidImage
from services.common.images import ImageLimits, decode, probe, thumbnail

LIMITS = ImageLimits()
LEFT_RED = np.zeros((40, 60, 3), np.uint8)
LEFT_RED[:, :30] = (250, 10, 10)
LEFT_RED[:, 30:] = (10, 10, 250)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def picture(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(LEFT_RED).resize((width, height), Image.Resampling.NEAREST)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def reason(data: bytes, limits: ImageLimits = LIMITS) -> str:
    """The reason that decoding gives; what probing finds, it must call the same."""
    with pytest.raises(InvalidImage) as decoding:
        decode(data, limits, "images[3]")
    assert decoding.value.field == "images[3]"
    try:
        probe(data, limits, "images[3]")
    except InvalidImage as probing:
        assert probing.reason == decoding.value.reason
    return decoding.value.reason


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_six_formats_are_read(form: str) -> None:
    data = encoded(picture(), form)
    assert probe(data, LIMITS).content_type == f"image/{form.lower()}"
    assert (probe(data, LIMITS).width, probe(data, LIMITS).height) == (60, 40)
    image = decode(data, LIMITS)
    assert image.mode == "RGB"
    np.testing.assert_allclose(np.asarray(image)[20, 10], (250, 10, 10), atol=25)


@pytest.mark.parametrize("form", ["ICO", "PPM", "TGA", "JPEG2000"])
def test_other_formats_are_refused(form: str) -> None:
    assert reason(encoded(picture(), form)) == "IMAGE_FORMAT"


@pytest.mark.parametrize("data", [b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0" * 5000, b"%PDF-1.7"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    assert reason(data) == "IMAGE_FORMAT"


def test_empty() -> None:
    assert reason(b"") == "IMAGE_EMPTY"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated(form: str, kept: float) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (80, 120, 3), np.uint8)
    data = encoded(Image.fromarray(noise), form)
    assert reason(data[: int(len(data) * kept)]) in {"IMAGE_TRUNCATED", "IMAGE_UNREADABLE"}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_missing_end_is_called_so(form: str) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (80, 120, 3), np.uint8)
    data = encoded(Image.fromarray(noise), form)
    assert reason(data[: len(data) // 2]) == "IMAGE_TRUNCATED"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damage_anywhere_is_an_error_or_a_picture(form: str) -> None:
    rng = np.random.default_rng(7)
    data = encoded(picture(), form)
    for _ in range(150):
        damaged = bytearray(data)
        for at in rng.integers(0, len(damaged), 6):
            damaged[at] = rng.integers(0, 256)
        try:
            assert decode(bytes(damaged), LIMITS).mode == "RGB"
        except InvalidImage as exc:
            assert exc.reason.startswith("IMAGE_")


def test_declared_size_is_refused_before_it_is_believed() -> None:
    assert reason(png_header(50_000, 50_000)) == "IMAGE_TOO_MANY_PIXELS"
    assert reason(png_header(30_001, 10)) == "IMAGE_TOO_MANY_PIXELS"
    assert probe(png_header(10_000, 10_000), LIMITS).width == 10_000


def test_too_many_bytes() -> None:
    assert reason(encoded(picture()), ImageLimits(max_bytes=50)) == "IMAGE_TOO_LARGE"


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_too_small(size: tuple[int, int]) -> None:
    assert reason(encoded(picture(*size))) == "IMAGE_TOO_SMALL"


def test_the_least_size_is_fine() -> None:
    assert decode(encoded(picture(8, 8)), LIMITS).size == (8, 8)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(form: str) -> None:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(np.asarray(decode(data, LIMITS))[10, 15], (255, 0, 0), atol=8)
    assert decode(data, ImageLimits(max_frames=3)).size == (30, 20)
    assert reason(data, ImageLimits(max_frames=2)) == "IMAGE_TOO_MANY_FRAMES"


def test_the_content_decides_not_the_label() -> None:
    assert probe(encoded(picture(), "WEBP"), LIMITS, "photo.jpg").content_type == "image/webp"


def test_cmyk_jpeg() -> None:
    data = encoded(picture().convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_allclose(np.asarray(decode(data, LIMITS))[20, 10], (250, 10, 10), atol=30)


def test_transparency_is_white() -> None:
    rgba = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    rgba.paste((0, 0, 255, 255), (10, 0, 20, 20))
    pixels = np.asarray(decode(encoded(rgba), LIMITS))
    assert tuple(pixels[5, 5]) == (255, 255, 255)
    assert tuple(pixels[5, 15]) == (0, 0, 255)


def test_palette_with_transparency() -> None:
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0] + [0] * 762)
    palette.paste(1, (10, 0, 20, 20))
    pixels = np.asarray(decode(encoded(palette, transparency=0), LIMITS))
    assert tuple(pixels[5, 5]) == (255, 255, 255)
    assert tuple(pixels[5, 15]) == (0, 255, 0)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits(form: str) -> None:
    deep = np.zeros((20, 20), np.uint16)
    deep[:, 10:] = 65_535
    deep[:10, :10] = 32_896
    pixels = np.asarray(decode(encoded(Image.fromarray(deep), form), LIMITS))
    assert (tuple(pixels[15, 5]), tuple(pixels[5, 5]), tuple(pixels[5, 15])) == ((0,) * 3, (128,) * 3, (255,) * 3)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_deeper_grey_is_stretched(dtype: type[np.generic]) -> None:
    values = np.linspace(-3, 12, 400).reshape(20, 20).astype(dtype)
    pixels = np.asarray(decode(encoded(Image.fromarray(values), "TIFF"), LIMITS))
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_floats_that_are_not_finite() -> None:
    values = np.full((20, 20), np.nan, np.float32)
    values[:, :10] = np.inf
    assert decode(encoded(Image.fromarray(values), "TIFF"), LIMITS).size == (20, 20)


@pytest.mark.parametrize(("mode", "white"), [("1", 1), ("L", 255), ("LA", (255, 255))])
def test_grey_modes(mode: str, white: Any) -> None:
    image = Image.new(mode, (20, 20))
    image.paste(white, (10, 0, 20, 20))
    pixels = np.asarray(decode(encoded(image), LIMITS))
    assert pixels.shape == (20, 20, 3)
    assert tuple(pixels[5, 15]) == (255, 255, 255)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(form: str, orientation: int) -> None:
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:20, :30] = (250, 10, 10)
    upright[20:, :30] = (10, 250, 10)
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if form in {"JPEG", "WEBP"} else {}
    data = encoded(stored, form, exif=exif, **options)
    info = probe(data, LIMITS)
    assert (info.width, info.height) == (60, 40)
    for target_px in (0, 10):
        image = decode(data, LIMITS, target_px=target_px)
        corners = np.asarray(image.resize((60, 40)))
        np.testing.assert_allclose(corners[5, 5], (250, 10, 10), atol=40)
        np.testing.assert_allclose(corners[35, 5], (10, 250, 10), atol=40)
        np.testing.assert_allclose(corners[5, 55], (0, 0, 0), atol=40)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")  # Pillow warns of it, and reads on
def test_damaged_exif_does_not_spoil_a_picture() -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    assert decode(data, LIMITS).size == (60, 40)


def test_draft_keeps_the_short_side() -> None:
    data = encoded(picture(1600, 1200), "JPEG")
    assert decode(data, LIMITS).size == (1600, 1200)
    assert decode(data, LIMITS, target_px=200).size == (400, 300)
    assert min(decode(data, LIMITS, target_px=400).size) >= 400


def test_thumbnail() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    small = thumbnail(encoded(picture(800, 400), "JPEG", exif=exif), LIMITS, side_px=320)
    with Image.open(io.BytesIO(small)) as image:
        assert (image.format, image.size) == ("WEBP", (160, 320))
        assert not image.getexif()
