"""The modest grammar of captions: what is in the scene, and sometimes where and on what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from demo.glyphs import article
from demo.holdout import HoldOut

__all__ = [
    "TAG_TEMPLATES",
    "Caption",
    "background_caption",
    "listing",
    "object_caption",
    "scene_caption",
    "training_caption",
]

TAG_TEMPLATES: Final = ("a photo of a {}", "a picture of a {}", "a {}", "{}")
"""Templates for bare names, as zero-shot tagging uses them: no article is fitted to the name."""

PREFIXES: Final = ("", "", "a photo of ", "a picture of ", "a scene with ")
CLEAR_GAP: Final = 0.25
"""How far apart two centres are, in parts of the image, before a caption says which is left or above."""


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption with what it names: objects, and the background's colour if it names one."""

    text: str
    names: frozenset[str]
    colour: str | None


def listing(names: Sequence[str]) -> str:
    """ "an owl", "an owl and a bus", "an owl, a pizza and a bus"."""
    items = [f"{article(name)} {name}" for name in names]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _relation(rng: np.random.Generator, centres: Mapping[str, tuple[float, float]]) -> str | None:
    """For two objects that stand clearly apart, one sentence about where; else None."""
    a, b = (str(name) for name in rng.permutation(list(centres)))
    dx, dy = centres[b][0] - centres[a][0], centres[b][1] - centres[a][1]
    if max(abs(dx), abs(dy)) < CLEAR_GAP:
        return None
    across = "to the left of" if dx > 0 else "to the right of"
    where = across if abs(dx) > abs(dy) else "above" if dy > 0 else "below"
    return f"{article(a)} {a} {where} {article(b)} {b}"


def _shuffled(rng: np.random.Generator, names: Sequence[str]) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))]


def scene_caption(
    rng: np.random.Generator, centres: Mapping[str, tuple[float, float]], colour: str, *, name_colour: bool
) -> Caption:
    """A caption that names every object of a scene, and the background where `name_colour` says so.

    `centres`: name -> (x, y) of its centre as fractions of the image.
    """
    names = list(centres)
    text = None
    if len(names) == 2 and rng.random() < 0.3:
        text = _relation(rng, centres)
    text = text or listing(_shuffled(rng, names))
    text = PREFIXES[rng.integers(len(PREFIXES))] + text
    if name_colour:
        text += f" on {article(colour)} {colour} background"
    return Caption(text, frozenset(names), colour if name_colour else None)


def object_caption(rng: np.random.Generator, name: str) -> Caption:
    """A caption of one object: "an owl", "a photo of an owl", or a bare tag template."""
    if rng.random() < 0.5:
        return Caption(TAG_TEMPLATES[rng.integers(len(TAG_TEMPLATES))].format(name), frozenset({name}), None)
    return Caption(PREFIXES[rng.integers(len(PREFIXES))] + listing([name]), frozenset({name}), None)


def background_caption(rng: np.random.Generator, colour: str) -> Caption:
    """A caption of a background with nothing on it."""
    text = PREFIXES[rng.integers(len(PREFIXES))] + f"{article(colour)} {colour} background"
    return Caption(text, frozenset(), colour)


def training_caption(
    rng: np.random.Generator, centres: Mapping[str, tuple[float, float]], colour: str, hold_out: HoldOut
) -> Caption:
    """A caption that is true of a training scene and names all or some of its objects.

    It never says what a gallery caption may say: no single object on a colour held out for it.
    """
    kept = dict(centres)
    if len(centres) > 1 and rng.random() < 0.3:
        count = int(rng.integers(1, len(centres)))
        kept = {name: centres[name] for name in _shuffled(rng, list(centres))[:count]}
    if len(kept) == 1 and rng.random() < 0.5:
        return object_caption(rng, next(iter(kept)))
    if rng.random() < 0.08:
        return Caption(", ".join(_shuffled(rng, list(kept))), frozenset(kept), None)
    name_colour = hold_out.allows(kept, colour) and rng.random() < (0.6 if len(kept) == 1 else 0.25)
    return scene_caption(rng, kept, colour, name_colour=name_colour)
