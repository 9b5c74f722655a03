"""Which objects stand in which held-out scene: for the gallery, and for validation during training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from demo.holdout import held_out

__all__ = ["PlannedScene", "plan_scenes"]

OBJECT_COUNTS: Final = (0.08, 0.30, 0.35, 0.20, 0.07)
"""Shares of scenes with 1, 2, ... 5 objects."""


@dataclass(frozen=True, slots=True)
class PlannedScene:
    """The objects of a held-out scene, and its background's colour where only that tells it apart."""

    names: tuple[str, ...]
    colour: str | None


def _single(rng: np.random.Generator, group: Sequence[str], taken: set[tuple[str, str]]) -> PlannedScene:
    """One object of the group on a colour held out for it and not taken yet."""
    choices = [
        (name, colour)
        for name in group
        for colour in sorted(held_out().single_colours[name])
        if (name, colour) not in taken
    ]
    name, colour = choices[rng.integers(len(choices))]
    taken.add((name, colour))
    return PlannedScene((name,), colour)


def _nested(names: frozenset[str], others: Sequence[frozenset[str]]) -> bool:
    return any(names <= other or other <= names for other in others)


def plan_scenes(rng: np.random.Generator, count: int, avoid: Sequence[PlannedScene] = ()) -> list[PlannedScene]:
    """`count` scenes, each from one held-out group, distinct groups as far as they go.

    No set of two or more objects equals or contains another one's, here or in `avoid`.
    """
    groups = held_out().groups
    order = np.concatenate([rng.permutation(len(groups)) for _ in range(2 + count // len(groups))])
    taken = {(scene.names[0], scene.colour) for scene in avoid if scene.colour}
    sets = [frozenset(scene.names) for scene in avoid if len(scene.names) > 1]
    planned: list[PlannedScene] = []
    for index in order:
        if len(planned) == count:
            break
        size = int(rng.choice(len(OBJECT_COUNTS), p=OBJECT_COUNTS)) + 1
        if size == 1:
            planned.append(_single(rng, groups[index], taken))
            continue
        names = tuple(rng.permutation(groups[index]).tolist()[:size])
        if not _nested(frozenset(names), sets):
            sets.append(frozenset(names))
            planned.append(PlannedScene(names, None))
    if len(planned) < count:
        raise ValueError(f"only {len(planned)} of {count} scenes could be told apart")
    return planned
