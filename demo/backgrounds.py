"""Backgrounds of the scenes: a plain colour name and one of six ways of painting it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["COLOURS", "KINDS", "Background", "paint"]

Pixels = npt.NDArray[np.float32]
"""Shape (height, width) or (height, width, 3)."""

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (212, 58, 54),
    "orange": (240, 142, 48),
    "yellow": (248, 216, 76),
    "green": (92, 168, 88),
    "blue": (72, 128, 208),
    "purple": (142, 92, 186),
    "pink": (245, 165, 190),
    "brown": (136, 98, 70),
    "gray": (150, 150, 152),
    "white": (243, 243, 240),
    "black": (38, 38, 42),
}
"""Colour name -> RGB around which a background of that name is painted."""


@dataclass(frozen=True, slots=True)
class Background:
    """A colour of `COLOURS`, a kind of `KINDS`, and the seed of everything else about it."""

    colour: str
    kind: str
    seed: int


def _grid(height: int, width: int) -> tuple[Pixels, Pixels]:
    """Rows and columns in [0, 1], broadcastable to (height, width)."""
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    return rows, columns


def _plain(_rng: np.random.Generator, height: int, width: int) -> Pixels:
    return np.zeros((height, width), np.float32)


def _gradient(rng: np.random.Generator, height: int, width: int) -> Pixels:
    rows, columns = _grid(height, width)
    angle = rng.uniform(0, 2 * np.pi)
    return np.float32(np.cos(angle)) * (columns - 0.5) * 2 + np.float32(np.sin(angle)) * (rows - 0.5) * 2


def _texture(rng: np.random.Generator, height: int, width: int) -> Pixels:
    cells = int(rng.integers(3, 14))
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)


def _stripes(rng: np.random.Generator, height: int, width: int) -> Pixels:
    waves: Pixels = np.sin(_gradient(rng, height, width) * np.float32(rng.uniform(8, 40)))
    return waves


def _dots(rng: np.random.Generator, height: int, width: int) -> Pixels:
    rows, columns = _grid(height, width)
    frequency = np.float32(rng.uniform(20, 60))
    waves = np.sin(rows * frequency) * np.sin(columns * frequency)
    spots: Pixels = 1 / (1 + np.exp(-12 * (waves - np.float32(0.35))))
    return spots


def _noise(rng: np.random.Generator, height: int, width: int) -> Pixels:
    return rng.uniform(-1, 1, (height, width)).astype(np.float32)


KINDS: Final[dict[str, Callable[[np.random.Generator, int, int], Pixels]]] = {
    "plain": _plain,
    "gradient": _gradient,
    "texture": _texture,
    "stripes": _stripes,
    "dots": _dots,
    "noise": _noise,
}
"""Kind -> pattern of shape (height, width) with values around [-1, 1]."""

DEPTH: Final[dict[str, tuple[float, float]]] = {
    "plain": (0, 0),
    "gradient": (12, 34),
    "texture": (8, 30),
    "stripes": (4, 16),
    "dots": (8, 24),
    "noise": (4, 16),
}
"""Kind -> range of the pattern's amplitude in grey levels."""


def paint(background: Background, width: int, height: int) -> Image.Image:
    """The background as an RGB picture; the same seed gives the same pattern at every size but noise."""
    rng = np.random.default_rng(background.seed)
    base = np.asarray(COLOURS[background.colour], np.float32) + rng.uniform(-14, 14, 3).astype(np.float32)
    amplitude = np.float32(rng.uniform(*DEPTH[background.kind]))
    tint = rng.uniform(0.7, 1.3, 3).astype(np.float32)
    pattern = KINDS[background.kind](rng, height, width)
    pixels = base + (amplitude * pattern)[..., None] * tint
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
