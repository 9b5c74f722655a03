"""Damaged and forged pictures, each from a number: the same number makes the same bytes everywhere."""

import io
import random
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np
from PIL import Image

from tests.unit.common.location.located import FORMS, located, upright

__all__ = ["forged"]

_NUMBERS: Final = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@cache
def _samples() -> list[bytes]:
    picture = upright()
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    made = [located(form, orientation) for form in FORMS for orientation in (1, 6)]
    made += [_encoded(picture.convert(mode), "JPEG") for mode in ("L", "CMYK")]
    made += [_encoded(picture, "JPEG", subsampling=0, restart_marker_blocks=2, quality=30)]
    made += [_encoded(picture, "MPO", save_all=True, append_images=[picture.rotate(90)])]
    made += [_encoded(picture.convert(mode), "PNG") for mode in ("1", "L", "LA", "RGBA", "P")] + [_encoded(deep, "PNG")]
    made += [_encoded(picture.convert("RGBA"), "WEBP", exact=True), _encoded(picture.convert("L"), "GIF", interlace=1)]
    made += [_encoded(picture.convert(mode), "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")]
    kinds = ("raw", "tiff_lzw", "packbits", "jpeg", "tiff_adobe_deflate")
    made += [_encoded(picture, "TIFF", compression=kind) for kind in kinds]
    made += [_encoded(picture.convert("1"), "TIFF", compression=kind) for kind in ("group3", "group4", "tiff_ccitt")]
    made += [_encoded(deep, "TIFF"), _encoded(Image.fromarray(np.asarray(deep).astype(np.float32)), "TIFF")]
    return made


def _flip(data: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 1, 2, 8, 40))):
        data[_place(data, dice)] ^= 1 << dice.randrange(8)


def _put_number(data: bytearray, dice: random.Random) -> None:
    size, little = dice.choice((1, 2, 4, 4)), dice.random() < 0.5
    at = _place(data, dice)
    data[at : at + size] = (dice.choice(_NUMBERS) & ((1 << 8 * size) - 1)).to_bytes(size, "little" if little else "big")


def _cut(data: bytearray, dice: random.Random) -> None:
    del data[_place(data, dice) + 1 :]


def _leave_out(data: bytearray, dice: random.Random) -> None:
    at = _place(data, dice)
    del data[at : at + dice.choice((1, 4, 12, 100, 1_000))]


def _repeat(data: bytearray, dice: random.Random) -> None:
    at = _place(data, dice)
    data[at:at] = data[at : at + dice.choice((1, 12, 100, 2_000))] * dice.choice((1, 2, 30))


def _insert(data: bytearray, dice: random.Random) -> None:
    at = _place(data, dice)
    data[at:at] = dice.randbytes(dice.choice((1, 3, 50)))


def _splice(data: bytearray, dice: random.Random) -> None:
    other = dice.choice(_samples())
    data[_place(data, dice) :] = other[dice.randrange(len(other)) :]


_MUTATIONS: Final[tuple[Callable[[bytearray, random.Random], None], ...]] = (
    *(_flip, _flip, _put_number, _put_number, _put_number),
    *(_cut, _leave_out, _repeat, _insert, _splice),
)


def _place(data: bytearray, dice: random.Random) -> int:
    """Anywhere, but more often at the beginning, where formats say what comes."""
    return dice.randrange(min(len(data), dice.choice((64, 512, len(data)))) or 1) if data else 0


def _with_right_sums(data: bytearray) -> None:
    """A PNG's checksums as they must be, lest nothing behind them is ever read."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            return
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4


def forged(seed: int) -> bytes:
    """A picture with one to four kinds of damage."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    data = bytearray(dice.choice(_samples()))
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        # A cut may leave nothing.
        if data:
            dice.choice(_MUTATIONS)(data, dice)
    if data.startswith(b"\x89PNG") and dice.random() < 0.7:
        _with_right_sums(data)
    return bytes(data)
