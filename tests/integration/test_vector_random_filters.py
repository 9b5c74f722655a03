"""Ten thousand random filters, on both engines, against a plain evaluation in Python.

A call to an engine takes far longer than a filter over a few rows, so each call answers several filters: the rows stand
in the index several times, under ids that begin with the copy's number, and the call asks for the rows of one copy
by the first filter, those of another copy by the second, and so on. milvus-lite takes most of its time for single rows:
a copy holds every third row, so that each row is looked at by thousands of filters, but not by all of them.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from services.common.vectors import Consistency, FilterTarget, Generation, SearchParams, VectorStore, compile_filter
from tests.engines import MilvusServer
from tests.integration.vectors_support import counts, settings_for
from tests.unit.common.vectors.filter_model import DIMENSION
from tests.unit.common.vectors.random_filters import (
    IMAGES,
    SEGMENTS,
    Expected,
    expected_of,
    image_in_copy,
    in_copy,
    segment_in_copy,
)

FILTERS = 10_000
COPIES = 9
SLICES = 3
AT_ONCE = 6
PROBE = np.ones((1, DIMENSION), dtype=np.float32)
ALL = SearchParams(exact=True, consistency=Consistency.EVENTUAL)


@pytest.fixture(scope="module")
def copied(engine: MilvusServer) -> Generation:
    """A generation with COPIES of the filter model's rows."""

    async def fill() -> Generation:
        store = VectorStore(settings_for(engine))
        made = Generation("copied", 1, DIMENSION, "model-a")
        await store.create_generation(made)
        for copy in range(COPIES):
            await store.upsert_images(made, [image_in_copy(row, copy) for row in IMAGES[copy % SLICES :: SLICES]])
            rows = [segment_in_copy(row, copy) for row in SEGMENTS[copy % SLICES :: SLICES]]
            await asyncio.gather(*[store.replace_segments(made, row.image_id, [row]) for row in rows])
        assert await counts(store, made) == (len(IMAGES) * COPIES // SLICES, len(SEGMENTS) * COPIES // SLICES)
        await store.close()
        return made

    return asyncio.run(fill())


def where_of(batch: Sequence[Expected], first: int = 0) -> str:
    """The rows of each copy, counted from `first`, that its filter passes; halved, so that few copies are compared."""
    if len(batch) == 1:
        return compile_filter(in_copy(batch[0].message, first), batch[0].target)
    column = "id" if batch[0].target is FilterTarget.IMAGES else "image_id"
    half = (len(batch) + 1) // 2
    below, above = where_of(batch[:half], first), where_of(batch[half:], first + half)
    border = f'"{first + half}."'
    return f"(({column} < {border} and ({below})) or ({column} >= {border} and ({above})))"


async def found_by(store: VectorStore, generation: Generation, batch: Sequence[Expected]) -> list[tuple[str, ...]]:
    """The keys of the rows that the filters found, each in its copy of every third row."""
    where, limit = where_of(batch), 1_000 * COPIES
    if batch[0].target is FilterTarget.IMAGES:
        [images] = await store.search_images(generation, PROBE, limit=limit, where=where, params=ALL)
        keys = [hit.id for hit in images]
    else:
        [segments] = await store.search_segments(generation, PROBE, limit=limit, where=where, params=ALL)
        keys = [f"{hit.image_id}/{hit.index}" for hit in segments]
    return [
        tuple(sorted(key.removeprefix(f"{copy}.") for key in keys if key.startswith(f"{copy}.")))
        for copy in range(len(batch))
    ]


def asked_of(copy: int, expected: Expected) -> tuple[str, ...]:
    """The keys of a copy's rows that the filter should find."""
    rows = IMAGES if expected.target is FilterTarget.IMAGES else SEGMENTS
    held = {row.id for row in rows[copy % SLICES :: SLICES]}
    return tuple(key for key in expected.passing if key in held)


@pytest.mark.timeout(900)
async def test_ten_thousand_filters_pass_what_they_say(store: VectorStore, copied: Generation) -> None:
    every = [expected_of(seed) for seed in range(FILTERS)]
    of_images = [expected for expected in every if expected.target is FilterTarget.IMAGES]
    of_segments = [expected for expected in every if expected.target is not FilterTarget.IMAGES]
    batches = iter([some[at : at + COPIES] for some in (of_images, of_segments) for at in range(0, len(some), COPIES)])
    compared: Counter[FilterTarget] = Counter()
    passing: Counter[str] = Counter()
    wrong: list[str] = []

    async def compare() -> None:
        for batch in batches:
            for copy, (expected, found) in enumerate(zip(batch, await found_by(store, copied, batch), strict=True)):
                compared[expected.target] += 1
                passing["none" if not found else "some"] += 1
                wanted = asked_of(copy, expected)
                if found != wanted:
                    differs = sorted(set(found) ^ set(wanted))[:3]
                    wrong.append(f"{expected.target}: {differs} by {expected.where}")

    await asyncio.gather(*[compare() for _ in range(AT_ONCE)])
    assert not wrong, "\n".join(wrong[:5])
    assert compared.total() == FILTERS
    # Filters that pass nothing, or are all of one kind, would show little.
    assert passing["some"] > FILTERS // 4
    assert min(compared.values()) > FILTERS // 10
