"""Pictures of single segments, as the embedder makes them, and the imprecise masks it must live with."""

from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from demo.masks import BoolMask, Box

__all__ = ["FILL", "MARGIN", "cut_out", "imprecise", "padded_square"]

FILL: Final = (127, 127, 127)
"""The grey around a cut-out segment; 0 after normalisation with mean and std of 0.5."""
MARGIN: Final = 0.1
"""What is added on each side of a box, in parts of the box's longer side."""


def padded_square(image: Image.Image, box: Box, *, margin: float = MARGIN) -> Image.Image:
    """The box with its margin as a square RGB picture, centred; grey where it leaves the image."""
    x0, y0, x1, y1 = (value * side for value, side in zip(box, (image.width, image.height) * 2, strict=True))
    half = max(x1 - x0, y1 - y0) * (0.5 + margin)
    left, top = round((x0 + x1) / 2 - half), round((y0 + y1) / 2 - half)
    side = max(1, round(2 * half))
    square = Image.new("RGB", (side, side), FILL)
    square.paste(image, (-left, -top))
    return square


def cut_out(image: Image.Image, mask: BoolMask, box: Box, *, margin: float = MARGIN) -> Image.Image:
    """The masked object alone on grey, cropped to its box with a margin and padded to a square.

    `mask`: shape (height, width) of the image. `box`: the mask's own tight box.
    """
    alone = Image.new("RGB", image.size, FILL)
    alone.paste(image, mask=Image.fromarray(mask.astype(np.uint8) * 255))
    return padded_square(alone, box, margin=margin)


def imprecise(rng: np.random.Generator, mask: BoolMask) -> BoolMask:
    """The mask as a small segmenter might give it: grown, shrunk, smoothed, shifted or cut.

    Never empty; the mask itself where the damage would leave nothing.
    """
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    kind = rng.integers(5)
    if kind == 0:
        picture = picture.filter(ImageFilter.MaxFilter(int(rng.choice([3, 5, 7]))))
    elif kind == 1:
        picture = picture.filter(ImageFilter.MinFilter(int(rng.choice([3, 5]))))
    elif kind == 2:
        coarse = picture.resize((48, 48), Image.Resampling.BOX)
        picture = coarse.resize(picture.size, Image.Resampling.BILINEAR)
    damaged = np.asarray(picture) > 127
    if kind == 3:
        shift = rng.integers(-4, 5, 2)
        damaged = np.roll(damaged, (int(shift[0]), int(shift[1])), (0, 1))
    elif kind == 4:
        damaged = _without_a_side(rng, damaged)
    return damaged if damaged.sum() > mask.sum() / 3 else mask


def _without_a_side(rng: np.random.Generator, mask: BoolMask) -> BoolMask:
    """The mask without what lies beyond a random line: a tenth to a third of its pixels."""
    rows, columns = np.nonzero(mask)
    angle = rng.uniform(0, 2 * np.pi)
    depth = rows * np.sin(angle) + columns * np.cos(angle)
    keep = depth <= np.quantile(depth, 1 - rng.uniform(0.1, 0.33))
    cut = np.zeros_like(mask)
    cut[rows[keep], columns[keep]] = True
    return cut
