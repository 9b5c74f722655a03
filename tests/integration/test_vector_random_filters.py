"""Ten thousand random filters, on both engines, against a plain evaluation in Python."""

import asyncio
from collections import Counter

import numpy as np
import pytest

from services.common.vectors import Consistency, FilterTarget, Generation, SearchParams, VectorStore
from tests.unit.common.vectors.filter_model import DIMENSION
from tests.unit.common.vectors.random_filters import Expected, expected_of

FILTERS = 10_000
AT_ONCE = 12
PROBE = np.ones((1, DIMENSION), dtype=np.float32)
ALL = SearchParams(exact=True, consistency=Consistency.EVENTUAL)


async def found_by(store: VectorStore, generation: Generation, expected: Expected) -> tuple[str, ...]:
    if expected.target is FilterTarget.IMAGES:
        [images] = await store.search_images(generation, PROBE, limit=1000, where=expected.where, params=ALL)
        return tuple(sorted(hit.id for hit in images))
    [segments] = await store.search_segments(generation, PROBE, limit=1000, where=expected.where, params=ALL)
    return tuple(sorted(f"{hit.image_id}/{hit.index}" for hit in segments))


@pytest.mark.timeout(900)
async def test_ten_thousand_filters_pass_what_they_say(store: VectorStore, filtered: Generation) -> None:
    seeds = iter(range(FILTERS))
    compared: Counter[FilterTarget] = Counter()
    passing: Counter[str] = Counter()
    wrong: list[str] = []

    async def compare() -> None:
        for seed in seeds:
            expected = expected_of(seed)
            found = await found_by(store, filtered, expected)
            compared[expected.target] += 1
            passing["none" if not found else "some"] += 1
            if found != expected.passing:
                differs = sorted(set(found) ^ set(expected.passing))[:3]
                wrong.append(f"seed {seed}, {expected.target}: {differs} by {expected.where}")

    await asyncio.gather(*[compare() for _ in range(AT_ONCE)])
    assert not wrong, "\n".join(wrong[:5])
    assert compared.total() == FILTERS
    # Filters that pass nothing, or are all of one kind, would show little.
    assert passing["some"] > FILTERS // 3
    assert min(compared.values()) > FILTERS // 10
