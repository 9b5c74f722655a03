"""Whether searches of the next generation find what searches of the live one find."""

import random
from collections.abc import Sequence
from typing import Final

import numpy as np

from services.common.records import CollectionRecord
from services.common.vectors import Consistency, Generation, ImageHit, SearchParams, VectorStore

__all__ = ["agreement"]

_SAMPLE: Final = 200
_DRAWN_FROM: Final = 10_000
_SEARCHES_AT_ONCE: Final = 50
# Similarities nearer than this are the same, whichever comes first.
_TIE: Final = 1e-4


async def agreement(vectors: VectorStore, live: CollectionRecord, following: CollectionRecord) -> tuple[float, int]:
    """Share of searches whose best result is the same in both generations, and how many searches were made.

    A search asks with the vector of a stored image, and its result is the best other image; of several that are equally
    similar any is right. Both generations have to be of the same model.
    """
    old, new = Generation.of(live), Generation.of(following)
    ids = await vectors.list_image_ids(old, where="", limit=_DRAWN_FROM)
    # The same sample each time, so that a job that was interrupted comes to the same end.
    sample = random.Random(len(ids)).sample(ids, min(_SAMPLE, len(ids)))  # noqa: S311 - no secret
    known = await vectors.get_image_vectors(old, sample, consistency=Consistency.STRONG)
    asked = [name for name in sample if name in known]
    same = 0
    for start in range(0, len(asked), _SEARCHES_AT_ONCE):
        names = asked[start : start + _SEARCHES_AT_ONCE]
        rows = np.stack([known[name] for name in names])
        # Exactly, in the live one: how well it has been found so far is no measure of the next one.
        params = SearchParams(exact=True, consistency=Consistency.STRONG)
        before = await vectors.search_images(old, rows, limit=2, params=params)
        after = await vectors.search_images(new, rows, limit=2, params=SearchParams(consistency=Consistency.STRONG))
        same += sum(_agree(name, *pair) for name, *pair in zip(names, before, after, strict=True))
    return (same / len(asked) if asked else 1.0), len(asked)


def _agree(name: str, before: Sequence[ImageHit], after: Sequence[ImageHit]) -> bool:
    best, found = _best_other(name, before), _best_other(name, after)
    if best is None or found is None:
        return best is found
    return best.id == found.id or abs(best.similarity - found.similarity) <= _TIE


def _best_other(name: str, hits: Sequence[ImageHit]) -> ImageHit | None:
    return next((hit for hit in hits if hit.id != name), None)
