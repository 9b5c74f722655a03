"""What an index finds of what is there, measured on both engines once the index is in force; and counts for plans."""

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from saccade.common.v1 import types_pb2
from services.common.records import IndexSpec, IndexType
from services.common.vectors import (
    Consistency,
    FilterTarget,
    Generation,
    RowEstimate,
    VectorStore,
    compile_filter,
    measure,
)
from tests.integration.vectors_support import image, segment, vectors_of

ROWS = 2_500
WIDE = 32
"""In so many dimensions, neighbours lie in many lists."""


@pytest.fixture(scope="module")
def names() -> list[str]:
    return [f"i{number:04d}" for number in range(ROWS)]


def wide(count: int, seed: int = 0) -> NDArray[np.float32]:
    array = np.random.default_rng(seed).normal(size=(count, WIDE)).astype(np.float32)
    return np.asarray(array / np.linalg.norm(array, axis=1, keepdims=True), dtype=np.float32)


async def fill(store: VectorStore, made: Generation, names: list[str]) -> None:
    vectors = wide(ROWS)
    await store.create_generation(made)
    await store.upsert_images(made, [image(name, vector) for name, vector in zip(names, vectors, strict=True)])
    await store.replace_segments(made, names[0], [segment(names[0], 0, vectors[0])])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", [IndexType.IVF_FLAT, IndexType.HNSW])
async def test_recall_is_measured_on_the_index_itself(store: VectorStore, names: list[str], kind: IndexType) -> None:
    made = Generation(f"tuned_{kind.value.lower()}", 1, WIDE, "model-a", IndexSpec(type=kind, nlist=256))
    await fill(store, made, names)
    images, none = wide(300, seed=3), np.zeros((0, WIDE), dtype=np.float32)
    record = await measure(store, made, images, none)
    assert (record.generation, record.image_rows, record.segment_rows) == (1, ROWS, 1)
    # One segment is too few to choose for, and there were no texts.
    assert (record.images_by_text, record.segments_by_image, record.segments_by_text) == ((), (), ())
    points = record.images_by_image
    assert [point.nprobe for point in points] == sorted({point.nprobe for point in points})
    assert points[-1].recall >= 0.999
    if kind is IndexType.IVF_FLAT:
        # Searched before the index is in force, 8 lists of 256 would find all.
        assert points[0].nprobe == 8
        assert 0.3 < points[0].recall < 0.999
    again = await measure(store, made, images, none)
    assert again.images_by_image == points
    await store.drop_collection(made.collection)


async def test_where_every_row_is_compared_nothing_is_measured(store: VectorStore, generation: Generation) -> None:
    await store.upsert_images(generation, [image("a", vectors_of(1)[0])])
    record = await measure(store, generation, vectors_of(3), vectors_of(3))
    assert (record.image_rows, record.images_by_image) == (1, ())


async def test_a_measurement_ends_in_time(store: VectorStore, names: list[str]) -> None:
    made = Generation("hurried", 1, WIDE, "model-a", IndexSpec(nlist=128))
    await fill(store, made, names)
    for limits in ({"settle_s": 120.0, "limit_s": 0.0}, {"settle_s": 0.0, "limit_s": 0.0}):
        record = await measure(store, made, wide(3), wide(3), **limits)
        assert (record.image_rows, record.images_by_image) == (ROWS, ())
    await store.drop_collection(made.collection)


async def test_estimates_are_counts_of_a_moment_ago(store: VectorStore, generation: Generation) -> None:
    vectors = vectors_of(20)
    rows = [image(f"i{number}", vector, width=number) for number, vector in enumerate(vectors)]
    await store.upsert_images(generation, rows)
    await store.count_images(generation, consistency=Consistency.STRONG)
    where = compile_filter(types_pb2.Filter(width=types_pb2.Filter.Range(min=15)), FilterTarget.IMAGES)
    wanted = {"images": RowEstimate(20, 5), "segments": RowEstimate(0, 0)}
    for of, estimate in wanted.items():
        assert await store.estimate(generation, where=where, of=of) == estimate  # type: ignore[arg-type]
    await store.delete_images(generation, ["i19"])
    kept = await asyncio.gather(*[store.estimate(generation, where=where, of="images") for _ in range(5)])
    assert kept == [wanted["images"]] * 5
