"""Pictures and captions for the demo CLIP: drawn once by all cores, then used again with light changes."""

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from demo.backgrounds import COLOURS
from demo.captions import Caption, background_caption, object_caption, training_caption
from demo.crops import imprecise, padded_square
from demo.glyphs import glyph_names
from demo.holdout import held_out
from demo.masks import BoolMask, bounding_box
from demo.scenes import draw, pick_background, sample_spec, training_spec
from services.embedder.crops import cut_out

__all__ = ["ClipBatch", "ClipPool", "Item", "draw_pool", "truth"]

SCENE_SIDE: Final = 176
CROP_SIDE: Final = 256
CHUNK: Final = 250
MIN_PIXELS: Final = 40
"""Fewer visible pixels than this are no crop."""

Images = npt.NDArray[np.uint8]
"""Shape (n, side, side, 3), RGB."""
Flags = npt.NDArray[np.float32]
"""Shape (n, names + colours), 1 where a name or colour occurs."""


@dataclass(frozen=True, slots=True)
class Item:
    """What a training picture shows. `centres` are of the objects to caption; `present` may hold more."""

    kind: str
    centres: dict[str, tuple[float, float]]
    present: frozenset[str]
    colour: str | None

    def caption(self, rng: np.random.Generator) -> Caption:
        """A true caption, another one on each call."""
        if self.kind == "scene":
            return training_caption(rng, self.centres, self.colour or "", held_out())
        if self.kind == "background":
            return background_caption(rng, self.colour or "")
        return object_caption(rng, next(iter(self.centres)))


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """A batch of pairs: pictures 2k and 2k + 1 are of the same objects.

    `images` (n, side, side, 3) uint8; `captions` n strings; `shows`, `says`: flags of pictures and captions;
    `subjects`: flags of what each picture is a picture of.
    """

    images: Images
    captions: list[str]
    shows: Flags
    says: Flags
    subjects: Flags


@dataclass(frozen=True, slots=True)
class ClipPool:
    """All training pictures, of one size, with what they show; 2k and 2k + 1 are of the same objects."""

    images: Images
    items: list[Item]

    def batches(self, rng: np.random.Generator, size: int) -> Iterator[ClipBatch]:
        """Endless batches of an even `size`; every pair occurs once before any occurs again."""
        while True:
            order = rng.permutation(len(self.items) // 2)
            for start in range(0, len(order) - size // 2 + 1, size // 2):
                first = 2 * np.sort(order[start : start + size // 2])
                yield self._batch(rng, np.stack([first, first + 1], axis=1).ravel())

    def _batch(self, rng: np.random.Generator, chosen: npt.NDArray[np.int64]) -> ClipBatch:
        items = [self.items[i] for i in chosen]
        captions = [item.caption(rng) for item in items]
        return ClipBatch(
            _shifted(rng, self.images[chosen]),
            [caption.text for caption in captions],
            truth([(item.present, item.colour) for item in items]),
            truth([(caption.names, caption.colour) for caption in captions]),
            truth([(frozenset(item.centres), None) for item in items]),
        )


def truth(facts: Sequence[tuple[frozenset[str], str | None]]) -> Flags:
    """Flags of names and colours: a caption is true of a picture when the picture has all its flags."""
    columns = {name: i for i, name in enumerate((*glyph_names(), *COLOURS))}
    offset = len(glyph_names())
    colour_columns = {colour: offset + i for i, colour in enumerate(COLOURS)}
    flags = np.zeros((len(facts), len(columns)), np.float32)
    for row, (names, colour) in enumerate(facts):
        for name in names:
            flags[row, columns[name]] = 1
        if colour is not None:
            flags[row, colour_columns[colour]] = 1
    return flags


def _shifted(rng: np.random.Generator, images: Images) -> Images:
    """Each picture moved by up to 4 px each way; edges repeat."""
    count, side = images.shape[:2]
    steps = np.arange(side)
    shifts = rng.integers(-4, 5, (2, count, 1))
    rows = np.clip(steps + shifts[0], 0, side - 1)
    columns = np.clip(steps + shifts[1], 0, side - 1)
    moved: Images = images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved


def _object_crop(
    rng: np.random.Generator, image: Image.Image, mask: BoolMask, name: str, everything: frozenset[str]
) -> tuple[Image.Image, Item]:
    """One object, mostly cut out, exactly or not, sometimes as a plain box with what else is in it."""
    margin = float(rng.uniform(0.04, 0.2))
    centres = {name: (0.5, 0.5)}
    if rng.random() < 0.2:
        return padded_square(image, bounding_box(mask), margin=margin), Item("crop", centres, everything, None)
    cut = mask if rng.random() < 0.4 else imprecise(rng, mask)
    crop = cut_out(image, cut, margin=margin)
    return crop, Item("crop", centres, frozenset(centres), None)


def _crops(rng: np.random.Generator) -> Iterator[tuple[Image.Image, Item]]:
    """Each object of a new scene twice, and sometimes the background twice."""
    spec = training_spec(rng, held_out())
    image, masks = draw(spec, CROP_SIDE)
    everything = frozenset(spec.centres)
    for placement, mask in zip(spec.placements, masks, strict=True):
        if mask.sum() >= MIN_PIXELS:
            yield _object_crop(rng, image, mask, placement.name, everything)
            yield _object_crop(rng, image, mask, placement.name, everything)
    if rng.random() < 0.2:
        ground = ~np.logical_or.reduce(masks)
        for mask in (ground, imprecise(rng, ground)):
            alone = cut_out(image, mask)
            yield alone, Item("background", {}, frozenset(), spec.background.colour)


def _scenes(rng: np.random.Generator) -> Iterator[tuple[Image.Image, Item]]:
    """A new scene, and another one of the same objects on another background."""
    spec = training_spec(rng, held_out())
    names = list(spec.centres)
    background = pick_background(rng)
    while not held_out().allows(names, background.colour):
        background = pick_background(rng)
    for one in (spec, sample_spec(rng, names, background)):
        image, _ = draw(one, SCENE_SIDE)
        yield image, Item("scene", one.centres, frozenset(names), one.background.colour)


def _draw_chunk(job: tuple[str, int, int]) -> tuple[Images, list[Item]]:
    """Draw one chunk: (kind "scene" or "crop", seed, side)."""
    kind, seed, side = job
    rng = np.random.default_rng(seed)
    pictures: list[Images] = []
    items: list[Item] = []
    for _ in range(CHUNK):
        for picture, item in _scenes(rng) if kind == "scene" else _crops(rng):
            small = picture.resize((side, side), Image.Resampling.BICUBIC)
            pictures.append(np.asarray(small, np.uint8))
            items.append(item)
    return np.stack(pictures), items


def draw_pool(seed: int, scenes: int, crop_scenes: int, side: int, processes: int = 2) -> ClipPool:
    """Draw `scenes` whole scenes, and the crops of `crop_scenes` more, squeezed to `side` x `side` px."""
    jobs = [("scene", seed + i, side) for i in range(max(1, scenes // CHUNK // 2))]
    jobs += [("crop", seed + 10**6 + i, side) for i in range(max(1, crop_scenes // CHUNK))]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        chunks = pool.map(_draw_chunk, jobs, chunksize=1)
    items = [item for _, chunk_items in chunks for item in chunk_items]
    return ClipPool(np.concatenate([images for images, _ in chunks]), items)
