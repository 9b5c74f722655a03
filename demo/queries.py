"""Pictures to search with that are not in the gallery: whole scenes, and regions of scenes."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from demo.gallery_plan import plan_scenes
from demo.labels import SceneLabel
from demo.scenes import Scene, SceneObject, make_scene, pick_background

__all__ = ["SMALL_AREA", "RegionQuery", "query_variant", "region_queries", "relevant_ids"]

SMALL_AREA: Final = 0.08
"""An object that covers less of its image than this is small."""
VARIANT_STREAM: Final = 1
REGION_STREAM: Final = 2


@dataclass(frozen=True, slots=True)
class RegionQuery:
    """A scene outside the gallery and the small object in it that is searched for."""

    scene: Scene
    target: SceneObject


def query_variant(label: SceneLabel, seed: int, *, side: int = 512) -> Scene:
    """The objects of a gallery scene at other places, sizes and tilts, on another background colour.

    The same label and seed always give the same picture.
    """
    number = int(label.id.rsplit("-", 1)[-1])
    rng = np.random.default_rng((seed, VARIANT_STREAM, number))
    background = pick_background(rng)
    while background.colour == label.background:
        background = pick_background(rng)
    return make_scene(rng, label.names, background, side=side)


def region_queries(
    count: int, seed: int, *, among: Collection[str] | None = None, side: int = 512
) -> list[RegionQuery]:
    """`count` fresh held-out scenes, each with an object below `SMALL_AREA`; the same for the same seed.

    `among`: only objects of these names are searched for, such as those that the searched scenes show.
    """
    rng = np.random.default_rng((seed, REGION_STREAM))
    queries: list[RegionQuery] = []
    while len(queries) < count:
        for planned in plan_scenes(rng, count):
            background = pick_background(rng, [planned.colour]) if planned.colour else pick_background(rng)
            scene = make_scene(rng, planned.names, background, side=side)
            small = [
                item
                for item in scene.objects
                if item.area_fraction < SMALL_AREA and (among is None or item.name in among)
            ]
            if small and len(queries) < count:
                queries.append(RegionQuery(scene, small[rng.integers(len(small))]))
    return queries


def relevant_ids(labels: Iterable[SceneLabel], name: str) -> frozenset[str]:
    """The ids of the scenes that show an object of this name."""
    return frozenset(label.id for label in labels if name in label.names)
