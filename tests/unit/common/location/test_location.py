"""Pictures that tell where they were taken, and the same ones afterwards."""

import io
import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from services.common.errors import InvalidImage
from services.common.images import ImageLimits, decode, probe
from services.common.location import check_metadata, orientation_of, without_location
from services.common.location.tiff import scrubbed_exif
from tests.unit.common.location.located import FORMS, GPS_BYTES, PLACE, exif_block, located

LIMITS = ImageLimits()
CARRY_EXIF = [form for form in FORMS if not form.startswith("gif")]


def frames_of(data: bytes) -> list[bytes]:
    with Image.open(io.BytesIO(data)) as image:
        return [frame.convert("RGBA").tobytes() for frame in ImageSequence.Iterator(image)]


@pytest.mark.parametrize("form", FORMS)
def test_no_place_is_left(form: str) -> None:
    data = located(form)
    assert PLACE in data
    clean = without_location(data)
    assert PLACE not in clean
    assert not [each for each in GPS_BYTES if each in clean]
    with Image.open(io.BytesIO(clean)) as image:
        exif = image.getexif()
        assert not exif.get_ifd(0x8825)
        assert not {0x02BC, 0x83BB, 0x8649, 0x87AF, 0x896B, 0x9C9C} & set(exif)
        assert 0x927C not in exif.get_ifd(0x8769)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_picture_stays_the_same(form: str, orientation: int) -> None:
    data = located(form, orientation)
    clean = without_location(data)
    assert frames_of(clean) == frames_of(data)
    assert probe(clean, LIMITS) == probe(data, LIMITS)
    for target_px in (0, 20):
        before, after = (decode(each, LIMITS, target_px=target_px) for each in (data, clean))
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))


@pytest.mark.parametrize("form", CARRY_EXIF)
def test_what_is_no_place_stays(form: str) -> None:
    with Image.open(io.BytesIO(without_location(located(form)))) as image:
        exif = image.getexif()
        assert exif[0x0112] == 6
        assert exif[0x010F] == "Maker"
        if form not in {"tiff deflate", "tiff pages"}:
            assert exif.get_ifd(0x8769)[0x9003] == "2026:11:28 11:59:59"
        if form.startswith("jpeg"):
            assert image.info["icc_profile"] == b"profile" * 9
        if form.startswith("webp"):
            # The extended head says EXIF, and no longer XMP.
            assert without_location(located(form))[20] & 0x0C == 0x08
        if form.startswith("png"):
            assert image.info["gamma"] == 0.45455


def test_an_animation_still_repeats() -> None:
    with Image.open(io.BytesIO(without_location(located("gif animation")))) as image:
        assert image.info["loop"] == 3


@pytest.mark.parametrize("form", FORMS)
def test_once_more_changes_nothing(form: str) -> None:
    clean = without_location(located(form))
    assert without_location(clean) == clean


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_picture_without_metadata_stays_as_it_is(form: str) -> None:
    out = io.BytesIO()
    Image.effect_noise((60, 40), 50).convert("RGB").save(out, form)
    assert without_location(out.getvalue()) == out.getvalue()


def test_what_stands_behind_the_picture_goes() -> None:
    for form in ("jpeg", "png", "webp", "gif"):
        clean = without_location(located(form))
        assert without_location(clean + b"PK\x03\x04<script>alert(1)</script>") == clean


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders(order: str) -> None:
    block = exif_block(order=order)
    assert block.startswith(b"II" if order == "<" else b"MM")
    assert orientation_of(scrubbed_exif(block)) == 6
    assert PLACE not in scrubbed_exif(block)


@pytest.mark.parametrize(
    "block", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff" + b"\xff" * 40, b"nonsense" * 5, exif_block()[:20]]
)
def test_exif_that_can_not_be_read_goes(block: bytes) -> None:
    assert scrubbed_exif(block) == b""
    assert orientation_of(block) == 1


def test_a_value_beyond_the_end_goes_with_its_field() -> None:
    block = bytearray(exif_block())
    entry = block.index(struct.pack("<HH", 0x010F, 2))
    struct.pack_into("<I", block, entry + 8, 1 << 30)
    assert orientation_of(scrubbed_exif(bytes(block))) == 6


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FORMS)), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6))
def test_damage_is_an_error_or_the_picture_as_it_decodes(form: str, damage: list[tuple[float, int]]) -> None:
    data = bytearray(located(form))
    for where, value in damage:
        data[int(where * (len(data) - 1))] = value
    try:
        before = decode(bytes(data), LIMITS)
        clean = without_location(bytes(data))
    except InvalidImage:
        return
    assert decode(clean, LIMITS).size == before.size
    assert without_location(clean) == clean


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=400),
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF89a", b"II*\0", b"MM\0+"]),
)
def test_anything_that_begins_like_a_picture(rest: bytes, magic: bytes) -> None:
    try:
        check_metadata(magic + rest)
        without_location(magic + rest)
    except InvalidImage as exc:
        assert exc.reason == "IMAGE_METADATA"


def test_fields_that_name_the_same_bytes_a_thousand_times() -> None:
    """A reader that copies each value would need gigabytes."""
    fields = b"".join(struct.pack("<HHII", tag, 1, 1 << 20, 8) for tag in range(1_000))
    block = b"II*\0" + struct.pack("<IH", 8, 1_000) + fields + bytes(4 + (1 << 20))
    for data in (block, jpeg_with(block), png_with(block), webp_with(block)):
        with pytest.raises(InvalidImage) as caught:
            check_metadata(data)
        assert caught.value.reason == "IMAGE_METADATA"


def test_directories_that_lead_in_a_circle() -> None:
    block = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x014A, 4, 1, 8, 8) + bytes(8)
    check_metadata(block)
    assert without_location(without_location(block)) == without_location(block)


def jpeg_with(exif: bytes) -> bytes:
    parts = [exif[at : at + 65_000] for at in range(0, len(exif), 65_000)]
    segments = [b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts]
    return b"\xff\xd8" + b"".join(segments) + b"\xff\xda"


def png_with(exif: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(exif)) + b"eXIf" + exif + b"\0\0\0\0"


def webp_with(exif: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(exif) + 12) + b"WEBPEXIF" + struct.pack("<I", len(exif)) + exif


def test_floods_of_blocks() -> None:
    floods = [
        b"\xff\xd8" + b"\xff\xe5\0\2" * 70_000,
        b"\xff\xd8" + b"\xff" * 70_000 + b"\xe5\0\2",
        b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0tEXt\0\0\0\0" * 70_000,
        b"RIFF" + struct.pack("<I", 800_000) + b"WEBP" + b"ABCD\0\0\0\0" * 70_000,
        b"GIF89a" + bytes(7) + b"!\xfe" + (b"\xff" + b"x" * 255) * 5_000 + b"\0;",
        b"GIF89a" + bytes(7) + b"x" * 70_000,
    ]
    for data in floods:
        with pytest.raises(InvalidImage) as caught:
            check_metadata(data)
        assert caught.value.reason == "IMAGE_METADATA"


def test_the_order_of_segments_stays() -> None:
    clean = without_location(located("jpeg"))
    names = [b"JFIF\0", b"Exif\0\0", b"ICC_PROFILE\0"]
    assert all(first < second for first, second in pairwise(clean.index(name) for name in names))
