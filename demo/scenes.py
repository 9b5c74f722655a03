"""Scenes of one to five pictograms, with caption, boxes and masks. Pure functions of a seed.

A `SceneSpec` says what is where in fractions of the image; `render` draws it at any size, so that one
specification serves as a gallery picture (512 px) and as training data (128 px).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from PIL import Image

from demo.backgrounds import COLOURS, KINDS, Background, paint
from demo.captions import scene_caption
from demo.glyphs import glyph_names, glyphs, picture
from demo.holdout import HoldOut
from demo.masks import BoolMask, Box, bounding_box
from services.common.domain import Mask

__all__ = [
    "Placement",
    "Scene",
    "SceneObject",
    "SceneSpec",
    "draw",
    "make_scene",
    "pick_background",
    "pick_names",
    "render",
    "sample_spec",
    "training_spec",
]

AREA_RANGES: Final[dict[int, tuple[float, float]]] = {
    1: (0.06, 0.30),
    2: (0.035, 0.22),
    3: (0.03, 0.15),
    4: (0.03, 0.11),
    5: (0.03, 0.08),
}
"""Number of objects -> range of the part of the image that one object covers."""
OBJECT_COUNT_WEIGHTS: Final = (0.18, 0.26, 0.26, 0.18, 0.12)
MAX_TILT_DEGREES: Final = 35.0
MAX_EXTENT: Final = 0.86
"""The longest side of a tilted object, in parts of the image's side."""
MIN_VISIBLE: Final = 0.85
"""The part of each object that stays uncovered on the planning grid; 0.7 is what is promised."""
PLAN_SIDE: Final = 96
COLOUR_NAMED: Final = 0.2
"""How often the caption of a labelled scene of several objects names the background too."""
ASPECTS: Final = (1.0, 1.0, 4 / 3, 3 / 4)


@dataclass(frozen=True, slots=True)
class Placement:
    """One object: centre (x, y) in parts of the image's width and height, `length` of the longer side of
    the untilted glyph in parts of the square root of the image's area, tilt in degrees."""

    name: str
    x: float
    y: float
    length: float
    tilt: float


@dataclass(frozen=True, slots=True)
class SceneSpec:
    """What is to be drawn: later placements cover earlier ones. `aspect` is width over height."""

    placements: tuple[Placement, ...]
    background: Background
    aspect: float
    brightness: float
    noise: float

    @property
    def centres(self) -> dict[str, tuple[float, float]]:
        """Name -> centre, for captions that say what is where."""
        return {p.name: (p.x, p.y) for p in self.placements}

    def size(self, side: int) -> tuple[int, int]:
        """Width and height in pixels of a picture with the area of a square of `side`."""
        return round(side * self.aspect**0.5), round(side / self.aspect**0.5)


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One labelled object: the mask is its visible part, box and area follow from the mask."""

    name: str
    category: str
    box: Box
    area_fraction: float
    mask: Mask


@dataclass(frozen=True, slots=True)
class Scene:
    """A drawn scene: RGB picture, caption, background colour name, labelled objects."""

    image: Image.Image
    caption: str
    background: str
    objects: tuple[SceneObject, ...]


def _tilted(glyph: Image.Image, length_px: float, tilt: float) -> Image.Image:
    """The glyph with its longer side `length_px`, turned by `tilt` degrees, cropped to what shows."""
    scale = length_px / max(glyph.size)
    size = (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale)))
    turned = glyph.resize(size, Image.Resampling.BICUBIC).rotate(tilt, Image.Resampling.BICUBIC, expand=True)
    return turned.crop(turned.getchannel("A").getbbox())


@cache
def _fill(name: str) -> float:
    """The part of the square around a glyph's longer side that the glyph covers."""
    alpha = np.asarray(picture(name).getchannel("A"))
    covered = int((alpha > 127).sum())
    return covered / float(max(alpha.shape) ** 2)


def _paste(canvas: Image.Image, placement: Placement, side: float) -> BoolMask:
    """Draw one object on the canvas; return its mask, shape (height, width)."""
    patch = _tilted(picture(placement.name), placement.length * side, placement.tilt)
    corner = (
        round(placement.x * canvas.width - patch.width / 2),
        round(placement.y * canvas.height - patch.height / 2),
    )
    canvas.paste(patch, corner, patch)
    alpha = Image.new("L", canvas.size)
    alpha.paste(patch.getchannel("A"), corner)
    return np.asarray(alpha) > 127


def draw(spec: SceneSpec, side: int) -> tuple[Image.Image, list[BoolMask]]:
    """The picture of a specification and the visible mask of each placement, in the same order.

    `side`: the square root of the picture's area in pixels.
    """
    width, height = spec.size(side)
    canvas = paint(spec.background, width, height)
    visible: list[BoolMask] = []
    for placement in spec.placements:
        mask = _paste(canvas, placement, side)
        visible = [earlier & ~mask for earlier in visible]
        visible.append(mask)
    rng = np.random.default_rng(spec.background.seed + 1)
    pixels = np.asarray(canvas, np.float32) * np.float32(spec.brightness)
    pixels += rng.standard_normal((height, width, 1), np.float32) * np.float32(spec.noise)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), visible


def render(spec: SceneSpec, caption: str, side: int = 512) -> Scene:
    """Draw a specification and label every object in it."""
    image, masks = draw(spec, side)
    objects = tuple(
        SceneObject(p.name, glyphs()[p.name].category, bounding_box(mask), float(mask.mean()), Mask.from_array(mask))
        for p, mask in zip(spec.placements, masks, strict=True)
    )
    return Scene(image, caption, spec.background.colour, objects)


def pick_background(rng: np.random.Generator, colours: Sequence[str] = tuple(COLOURS)) -> Background:
    """A background of one of `colours`."""
    kinds = tuple(KINDS)
    colour, kind = int(rng.integers(len(colours))), int(rng.integers(len(kinds)))
    return Background(colours[colour], kinds[kind], int(rng.integers(2**31)))


def _sized_patch(name: str, area: float, tilt: float, grid: tuple[int, int]) -> tuple[float, Image.Image]:
    """The length at which a glyph covers about `area`, or all that fits; its alpha on the planning grid."""
    length = min((area / _fill(name)) ** 0.5, MAX_EXTENT)
    patch = _tilted(picture(name), length * PLAN_SIDE, tilt)
    excess = max(patch.width / grid[0], patch.height / grid[1]) / MAX_EXTENT
    if excess > 1:
        length /= excess
        patch = _tilted(picture(name), length * PLAN_SIDE, tilt)
    return length, patch.getchannel("A")


def _candidate(rng: np.random.Generator, name: str, area: float, grid: tuple[int, int]) -> tuple[Placement, BoolMask]:
    """A placement inside the image that covers about `area`, and its mask on the planning grid."""
    tilt = float(rng.uniform(-MAX_TILT_DEGREES, MAX_TILT_DEGREES))
    length, patch = _sized_patch(name, area, tilt, grid)
    x = float(rng.uniform(patch.width / 2, grid[0] - patch.width / 2)) / grid[0]
    y = float(rng.uniform(patch.height / 2, grid[1] - patch.height / 2)) / grid[1]
    plan = Image.new("L", grid)
    plan.paste(patch, (round(x * grid[0] - patch.width / 2), round(y * grid[1] - patch.height / 2)))
    return Placement(name, x, y, length, tilt), np.asarray(plan) > 127


def _place(rng: np.random.Generator, names: Sequence[str], aspect: float) -> tuple[Placement, ...]:
    """Place objects one after the other, drawing again what would hide too much of an earlier one."""
    grid = (round(PLAN_SIDE * aspect**0.5), round(PLAN_SIDE / aspect**0.5))
    low, high = AREA_RANGES[len(names)]
    while True:
        placed: list[Placement] = []
        visible: list[BoolMask] = []
        areas: list[int] = []
        for _ in range(25 * len(names)):
            if len(placed) == len(names):
                return tuple(placed)
            area = float(np.exp(rng.uniform(np.log(low), np.log(high))))
            placement, mask = _candidate(rng, names[len(placed)], area, grid)
            left = [earlier & ~mask for earlier in visible]
            if all(m.sum() >= MIN_VISIBLE * a for m, a in zip(left, areas, strict=True)):
                placed.append(placement)
                visible = [*left, mask]
                areas.append(int(mask.sum()))


def sample_spec(rng: np.random.Generator, names: Sequence[str], background: Background) -> SceneSpec:
    """A scene of exactly these objects (1 to 5) on this background; the rest is random."""
    aspect = ASPECTS[rng.integers(len(ASPECTS))]
    order = [names[i] for i in rng.permutation(len(names)).tolist()]
    return SceneSpec(
        _place(rng, order, aspect),
        background,
        aspect,
        brightness=float(rng.uniform(0.88, 1.08)),
        noise=float(rng.choice([0.0, rng.uniform(0, 7)])),
    )


def pick_names(rng: np.random.Generator, hold_out: HoldOut, colour: str) -> list[str]:
    """One to five different names that training may show together (alone: on this colour)."""
    count = int(rng.choice(len(OBJECT_COUNT_WEIGHTS), p=OBJECT_COUNT_WEIGHTS)) + 1
    names = glyph_names()
    chosen: list[str] = []
    while len(chosen) < count or not hold_out.allows(chosen, colour):
        if len(chosen) >= count:
            chosen = []
        name = names[rng.integers(len(names))]
        if name not in chosen and (not chosen or hold_out.allows([*chosen, name], colour)):
            chosen.append(name)
    return chosen


def training_spec(rng: np.random.Generator, hold_out: HoldOut) -> SceneSpec:
    """A scene that training may show: no held-out pair, no object alone on a colour held out for it."""
    background = pick_background(rng)
    return sample_spec(rng, pick_names(rng, hold_out, background.colour), background)


def make_scene(rng: np.random.Generator, names: Sequence[str], background: Background, *, side: int = 512) -> Scene:
    """A labelled scene of exactly these objects; the caption tells a single one by its background."""
    spec = sample_spec(rng, names, background)
    name_colour = len(names) == 1 or bool(rng.random() < COLOUR_NAMED)
    caption = scene_caption(rng, spec.centres, background.colour, name_colour=name_colour)
    return render(spec, caption.text, side)
