"""Scenes that differ only in how their objects stand, and the words that fit one of them: place, relation, count.

From each of the first 28 held-out groups of five names two make scenes of places, two scenes of relations, and one
scenes of counts, so that no object occurs in another kind of query, and no pair was ever trained on together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import inflect
import numpy as np

from demo.glyphs import article, glyph_names
from demo.holdout import GROUP_SIZE, held_out
from demo.scenes import Placement, Scene, SceneSpec, pick_background, render

__all__ = ["Arrangement", "Kind", "arrangements"]

Kind = Literal["place", "relation", "count"]
Point = tuple[float, float]

LENGTHS: Final = (0.24, 0.34)
"""Of an object's longer side, in parts of the picture's side."""
TILT_DEGREES: Final = 20.0
JITTER: Final = 0.03
NUMBERS: Final = ("one", "two", "three", "four", "five")

# Words for a place -> (where the first object is, where the second is).
PLACES: Final[dict[str, tuple[Point, Point]]] = {
    "on the left": ((0.2, 0.5), (0.78, 0.5)),
    "on the right": ((0.8, 0.5), (0.22, 0.5)),
    "at the top": ((0.5, 0.2), (0.5, 0.78)),
    "at the bottom": ((0.5, 0.8), (0.5, 0.22)),
    "in the middle": ((0.5, 0.5), (0.17, 0.2)),
}
RELATIONS: Final[dict[str, tuple[Point, Point]]] = {
    "to the left of": ((0.3, 0.45), (0.7, 0.55)),
    "to the right of": ((0.7, 0.55), (0.3, 0.45)),
    "above": ((0.45, 0.28), (0.55, 0.72)),
    "below": ((0.55, 0.72), (0.45, 0.28)),
}
NEXT_TO: Final = "next to"
TOGETHER: Final[tuple[Point, Point]] = ((0.36, 0.5), (0.62, 0.5))
APART: Final[tuple[Point, Point]] = ((0.17, 0.2), (0.83, 0.8))
SPOTS: Final[tuple[Point, ...]] = ((0.22, 0.24), (0.76, 0.72), (0.76, 0.24), (0.24, 0.76), (0.5, 0.5))


@dataclass(frozen=True, slots=True)
class Arrangement:
    """A query and its scenes: the first is what the text says, the others show the same objects otherwise."""

    kind: Kind
    text: str
    scenes: tuple[Scene, ...]


def arrangements(seed: int, *, limit: int | None = None, side: int = 512) -> list[Arrangement]:
    """Three for each group, or for the first `limit` groups; the same for the same seed."""
    rng = np.random.default_rng((seed, 4))
    groups = held_out().groups[: len(glyph_names()) // GROUP_SIZE][:limit]
    made: list[Arrangement] = []
    for number, group in enumerate(groups):
        made += [
            _place(rng, number, group, side),
            _relation(rng, number, group, side),
            _count(rng, number, group, side),
        ]
    return made


def _place(rng: np.random.Generator, number: int, group: Sequence[str], side: int) -> Arrangement:
    first, second = group[:2]
    words = list(PLACES)[number % len(PLACES)]
    here, there = PLACES[words]
    scenes = _scene(rng, [(first, here), (second, there)], side), _scene(rng, [(second, here), (first, there)], side)
    return Arrangement("place", f"{_a(first)} {words}", scenes)


def _relation(rng: np.random.Generator, number: int, group: Sequence[str], side: int) -> Arrangement:
    first, second = group[2:4]
    kinds = [*RELATIONS, NEXT_TO]
    words = kinds[number % len(kinds)]
    if words == NEXT_TO:
        right, wrong = zip((first, second), TOGETHER, strict=True), zip((first, second), APART, strict=True)
    else:
        places = RELATIONS[words]
        right, wrong = zip((first, second), places, strict=True), zip((second, first), places, strict=True)
    scenes = _scene(rng, list(right), side), _scene(rng, list(wrong), side)
    return Arrangement("relation", f"{_a(first)} {words} {_a(second)}", scenes)


def _count(rng: np.random.Generator, number: int, group: Sequence[str], side: int) -> Arrangement:
    name, count = group[4], 2 + number % 3
    counts = (count, count - 1, count + 1)
    scenes = tuple(_scene(rng, [(name, spot) for spot in SPOTS[:many]], side) for many in counts)
    plural = inflect.engine().plural_noun(name)
    return Arrangement("count", f"{NUMBERS[count - 1]} {plural}", scenes)


def _scene(rng: np.random.Generator, objects: Sequence[tuple[str, Point]], side: int) -> Scene:
    """These objects about there, on a background of any kind; no two of them touch."""
    placements = tuple(
        Placement(
            name,
            x + float(rng.uniform(-JITTER, JITTER)),
            y + float(rng.uniform(-JITTER, JITTER)),
            float(rng.uniform(*LENGTHS)) * (0.8 if len(objects) > 2 else 1),
            float(rng.uniform(-TILT_DEGREES, TILT_DEGREES)),
        )
        for name, (x, y) in objects
    )
    spec = SceneSpec(placements, pick_background(rng), aspect=1.0, brightness=1.0, noise=0.0)
    return render(spec, ", ".join(name for name, _ in objects), side)


def _a(name: str) -> str:
    return f"{article(name)} {name}"
