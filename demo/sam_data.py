"""Pictures, label maps and prompts for the demo SAM: drawn once by all cores, prompted anew at each use."""

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from demo.glyphs import glyph_names
from demo.holdout import held_out
from demo.scenes import SceneSpec, draw, training_spec
from services.embedder.models.sam_architecture import PIXEL_MEAN

__all__ = ["MAX_OBJECTS", "PADDING", "Prompts", "SamExample", "SamPool", "draw_sam_pool", "fitted"]

PADDING: Final = 255
"""The label of what the square input holds beside the picture."""
CHUNK: Final = 100
MIN_PIXELS: Final = 20
MAX_OBJECTS: Final = 5
OBJECT_POINTS: Final = 4
BACKGROUND_POINTS: Final = 2
BOXES: Final = 2
BOX_JITTER: Final = 0.08

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts for one picture, in pixels of the square input.

    `points` (p, k, 2) as (x, y) with `point_labels` (p, k) of 1 for inside and 0 for outside; `boxes` (b, 4)
    as x0, y0, x1, y1; `targets` (p + b) the label that each prompt asks for, points first.
    """

    points: Floats
    point_labels: Floats
    boxes: Floats
    targets: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SamExample:
    """`image` (side, side, 3) RGB; `labels` (side, side): 0 background, 1.. objects, `PADDING` beside.

    `names` (`MAX_OBJECTS`): for object k, at k - 1, the index of its name; what is over is 0.
    """

    image: Bytes
    labels: Bytes
    names: Bytes
    prompts: Prompts


@dataclass(frozen=True, slots=True)
class SamPool:
    """All training pictures: `images` (n, side, side, 3), `labels` (n, side, side), `names` (n, `MAX_OBJECTS`)."""

    images: Bytes
    labels: Bytes
    names: Bytes

    def batches(self, rng: np.random.Generator, size: int) -> Iterator[list[SamExample]]:
        """Endless batches of recoloured pictures with fresh prompts of one kind per batch."""
        while True:
            order = rng.permutation(len(self.images))
            for start in range(0, len(order) - size + 1, size):
                extra_points = 2 if rng.random() < 0.2 else 0
                yield [self._example(rng, i, extra_points) for i in order[start : start + size]]

    def _example(self, rng: np.random.Generator, index: int, extra_points: int) -> SamExample:
        image, labels = self.images[index], self.labels[index]
        prompts = make_prompts(rng, labels, extra_points)
        return SamExample(_recoloured(rng, image, labels), labels, self.names[index], prompts)


def fitted(image: Image.Image, side: int) -> Image.Image:
    """The picture scaled so that its longer side is `side`."""
    scale = side / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)


def _recoloured(rng: np.random.Generator, image: Bytes, labels: Bytes) -> Bytes:
    """Another gain for each channel; the padding becomes what `Sam.preprocess` makes of it."""
    gain = rng.uniform(0.8, 1.2, 3).astype(np.float32)
    changed = np.clip(image * gain, 0, 255)
    changed[labels == PADDING] = PIXEL_MEAN
    result: Bytes = changed.astype(np.uint8)
    return result


def _point(rng: np.random.Generator, where: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """A random one of flat (row, column) pixels, as (x, y)."""
    row, column = where[rng.integers(len(where))]
    return np.array([column, row], np.float64)


def _jittered_box(rng: np.random.Generator, where: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The box around some pixels, each edge off by up to `BOX_JITTER` of the box's side."""
    (y0, x0), (y1, x1) = where.min(axis=0), where.max(axis=0) + 1
    reach = np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0]) * BOX_JITTER
    return np.array([x0, y0, x1, y1]) + rng.uniform(-1, 1, 4) * reach


def make_prompts(rng: np.random.Generator, labels: Bytes, extra_points: int = 0) -> Prompts:
    """Points on objects and on the background, and boxes of objects.

    With `extra_points` each point prompt has that many points more, inside or outside its target.
    """
    regions = {int(k): np.argwhere(labels == k) for k in np.unique(labels) if k != PADDING}
    regions = {k: where for k, where in regions.items() if len(where) >= MIN_PIXELS}
    objects = [k for k in regions if k] or [0]
    asked = [int(k) for k in rng.choice(objects, OBJECT_POINTS)] + [0] * BACKGROUND_POINTS
    boxed = [int(k) for k in rng.choice(objects, BOXES)]
    points, point_labels = [], []
    for target in asked:
        prompt, signs = [_point(rng, regions[target])], [1.0]
        for _ in range(extra_points):
            other = int(rng.choice(list(regions)))
            prompt.append(_point(rng, regions[other]))
            signs.append(float(other == target))
        points.append(np.stack(prompt))
        point_labels.append(signs)
    return Prompts(
        np.stack(points).astype(np.float32),
        np.array(point_labels, np.float32),
        np.stack([_jittered_box(rng, regions[k]) for k in boxed]).astype(np.float32),
        np.array(asked + boxed, np.int64),
    )


def draw_example(spec: SceneSpec, side: int) -> tuple[Bytes, Bytes, Bytes]:
    """The square input and the label map of a scene, both of `side` x `side` pixels, and the objects' names."""
    image, masks = draw(spec, round(side / max(spec.aspect, 1 / spec.aspect) ** 0.5))
    picture = Image.new("RGB", (side, side), tuple(round(value) for value in PIXEL_MEAN))
    picture.paste(fitted(image, side))
    labels = np.full((side, side), PADDING, np.uint8)
    height, width = min(image.height, side), min(image.width, side)
    labels[:height, :width] = 0
    for number, mask in enumerate(masks, start=1):
        labels[:height, :width][mask[:height, :width]] = number
    names = np.zeros(MAX_OBJECTS, np.uint8)
    names[: len(masks)] = [glyph_names().index(placement.name) for placement in spec.placements]
    return np.asarray(picture, np.uint8), labels, names


def _draw_chunk(job: tuple[int, int]) -> SamPool:
    """Draw `CHUNK` training scenes: (seed, side)."""
    seed, side = job
    rng = np.random.default_rng(seed)
    made = [draw_example(training_spec(rng, held_out()), side) for _ in range(CHUNK)]
    images, labels, names = (np.stack(arrays) for arrays in zip(*made, strict=True))
    return SamPool(images, labels, names)


def draw_sam_pool(seed: int, scenes: int, side: int, processes: int = 2) -> SamPool:
    """Draw about `scenes` training scenes as square inputs of `side` pixels."""
    jobs = [(seed + i, side) for i in range(max(1, scenes // CHUNK))]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        chunks = pool.map(_draw_chunk, jobs, chunksize=1)
    return SamPool(
        np.concatenate([chunk.images for chunk in chunks]),
        np.concatenate([chunk.labels for chunk in chunks]),
        np.concatenate([chunk.names for chunk in chunks]),
    )
