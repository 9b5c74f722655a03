"""What training must never see: pairs of objects, and single objects on some colours.

Evaluation and gallery scenes draw all their objects from one held-out group, so every pair in them is
held out; training scenes contain no such pair. Scenes of one object are told apart by their background.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Final

import numpy as np

from demo.backgrounds import COLOURS
from demo.glyphs import glyph_names

__all__ = ["GROUP_SIZE", "HoldOut", "held_out"]

SEED: Final = 20261120
PARTITIONS: Final = 9
GROUP_SIZE: Final = 5
COLOURS_PER_NAME: Final = 3


@dataclass(frozen=True, slots=True)
class HoldOut:
    """The held-out combinations.

    `groups`: tuples of `GROUP_SIZE` names. `pairs`: every two names that share a group.
    `single_colours`: for each name the background colours on which it never stands alone in training.
    """

    groups: tuple[tuple[str, ...], ...]
    pairs: frozenset[frozenset[str]]
    single_colours: dict[str, frozenset[str]]

    def allows(self, names: Iterable[str], colour: str | None) -> bool:
        """Whether training may show, or name, exactly these objects (on this colour, if one is given)."""
        chosen = list(names)
        if len(chosen) == 1:
            return colour is None or colour not in self.single_colours[chosen[0]]
        return not any(frozenset(pair) in self.pairs for pair in combinations(chosen, 2))


@cache
def held_out() -> HoldOut:
    """The one hold-out of this project; the same in every process."""
    rng = np.random.default_rng(SEED)
    names = np.array(glyph_names())
    groups: list[tuple[str, ...]] = []
    for _ in range(PARTITIONS):
        order = rng.permutation(names).tolist()
        groups += [tuple(order[i : i + GROUP_SIZE]) for i in range(0, len(order), GROUP_SIZE)]
    pairs = frozenset(frozenset(pair) for group in groups for pair in combinations(group, 2))
    colours = np.array(list(COLOURS))
    single = {str(name): frozenset(rng.choice(colours, COLOURS_PER_NAME, replace=False).tolist()) for name in names}
    return HoldOut(tuple(group for group in groups if len(group) == GROUP_SIZE), pairs, single)
