"""Damaged and forged pictures through the check and the decoders, and the memory that large ones take."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.fuzz.picture_runs import read_forged

SIDE = 2_500
# What decoders need for a pixel: the picture in their own form, in RGB, and what stands between; an animation is drawn
# on two canvases besides.
STILL, ANIMATED = 14, 24
OTHER_BYTES = 16 << 20


def test_six_hundred_forged_pictures() -> None:
    """A slice of what tests/faults/hostile reads."""
    pictures = read_forged(100_000, 600, processes=2)
    assert 60 < pictures < 540


def save(mode: str, form: str, **options: Any) -> Callable[[Path], None]:
    return lambda path: Image.new(mode, (SIDE, SIDE), 7 if mode == "P" else None).save(path, form, **options)


def save_deep(dtype: type[np.generic], form: str, **options: Any) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(np.zeros((SIDE, SIDE), dtype)).save(path, form, **options)


def save_animation(path: Path) -> None:
    frames = [Image.new("RGBA", (SIDE, SIDE), (shade, 0, 0, 250)) for shade in (10, 20)]
    frames[0].save(path, "WEBP", save_all=True, append_images=frames[1:], lossless=True, quality=0, method=0)


@pytest.mark.parametrize(
    "make",
    [
        save("RGB", "PNG"),
        save("RGBA", "PNG"),
        save("P", "PNG", transparency=7),
        save("CMYK", "JPEG"),
        save("RGB", "JPEG", progressive=True),
        save_deep(np.uint16, "PNG"),
        save_deep(np.float32, "TIFF", compression="tiff_adobe_deflate"),
        save_animation,
    ],
    ids=["RGB", "RGBA", "palette", "CMYK", "progressive", "16 bits", "floats", "animation"],
)
def test_memory_is_bounded_by_the_pixels(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "picture"
    make(path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.measuring", str(path)], capture_output=True, text=True, check=True
    )
    most = ANIMATED if make is save_animation else STILL
    assert int(done.stdout) < most * SIDE * SIDE + OTHER_BYTES
