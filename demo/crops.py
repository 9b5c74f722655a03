"""Plain boxes as crops, and the imprecise masks that the embedder must live with."""

import numpy as np
from PIL import Image, ImageFilter

from demo.masks import BoolMask, Box
from services.embedder.crops import FILL

__all__ = ["imprecise", "padded_square"]


def padded_square(image: Image.Image, box: Box, *, margin: float) -> Image.Image:
    """The box with its margin as a square RGB picture, centred; grey where it leaves the image."""
    x0, y0, x1, y1 = (value * side for value, side in zip(box, (image.width, image.height) * 2, strict=True))
    half = max(x1 - x0, y1 - y0) * (0.5 + margin)
    left, top = round((x0 + x1) / 2 - half), round((y0 + y1) / 2 - half)
    side = max(1, round(2 * half))
    square = Image.new("RGB", (side, side), FILL)
    square.paste(image, (-left, -top))
    return square


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
