"""The vector index on both engines: what it stores and finds."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from pymilvus import MilvusClient

from saccade.common.v1 import types_pb2
from services.common.errors import InvalidArgument
from services.common.vectors import (
    Consistency,
    FilterTarget,
    FoundSegment,
    Generation,
    SearchParams,
    SegmentRow,
    VectorStore,
    compile_filter,
)
from services.common.vectors.schema import images_name
from tests.engines import MilvusServer, wait_until
from tests.integration.vectors_support import STRONG, counts, image, segment, vectors_of
from tests.unit.common.vectors.filter_model import DIMENSION, image_rows


def own_part(row: SegmentRow) -> FoundSegment:
    """What ranking is given of a segment."""
    return FoundSegment(row.image_id, row.index, row.vector, row.box, row.area, row.stability, row.tags)


async def test_rows_come_back_as_they_went_in(store: VectorStore, generation: Generation) -> None:
    vectors = vectors_of(3)
    rows = [image("a", vectors[0]), image("_b.c-d", vectors[1])]
    segments = [segment("a", index, vectors[index]) for index in range(3)]
    await store.upsert_images(generation, rows)
    await store.replace_segments(generation, "a", segments)

    got = await store.get_images(generation, ["a", "nowhere", "_b.c-d", "a"], consistency=Consistency.STRONG)
    assert got == {row.id: row for row in rows}
    np.testing.assert_array_equal(got["a"].vector, vectors[0])
    got_segments = await store.get_segments(generation, "a", consistency=Consistency.STRONG)
    assert got_segments == segments
    np.testing.assert_array_equal(got_segments[2].vector, vectors[2])

    found = await store.get_segment_vectors(generation, ["a", "_b.c-d"], consistency=Consistency.STRONG)
    assert found == {"a": [own_part(row) for row in segments]}
    np.testing.assert_array_equal(found["a"][2].vector, vectors[2])
    wholes = await store.get_image_vectors(generation, ["a", "nowhere"], consistency=Consistency.STRONG)
    np.testing.assert_array_equal(wholes.pop("a"), vectors[0])
    assert not wholes


async def test_every_acknowledged_write_is_seen_at_once(store: VectorStore, generation: Generation) -> None:
    vectors = vectors_of(6)
    for number, vector in enumerate(vectors):
        await store.upsert_images(generation, [image(f"i{number}", vector)])
        hits = await store.search_images(generation, vector[None], limit=1, params=STRONG)
        assert [hit.id for hit in hits[0]] == [f"i{number}"]
        assert hits[0][0].similarity == pytest.approx(1, abs=1e-5)
        assert await counts(store, generation) == (number + 1, 0)
    await store.upsert_images(generation, [image("i3", vectors[3], width=7)])
    assert (await store.get_images(generation, ["i3"], consistency=Consistency.STRONG))["i3"].width == 7
    await store.delete_images(generation, ["i3", "nowhere"])
    assert await store.list_image_ids(generation, where="", limit=50) == sorted(
        f"i{number}" for number in range(6) if number != 3
    )
    assert await store.get_images(generation, ["i3"], consistency=Consistency.STRONG) == {}


async def test_segments_are_replaced_and_go_with_their_image(store: VectorStore, generation: Generation) -> None:
    vectors = vectors_of(6)
    await store.replace_segments(generation, "b", [segment("b", 0, vectors[0])])
    for count in (5, 2, 0, 3):
        await store.replace_segments(generation, "a", [segment("a", index, vectors[index]) for index in range(count)])
        got = await store.get_segments(generation, "a", consistency=Consistency.STRONG)
        assert [row.index for row in got] == list(range(count))
        assert len(await store.get_segments(generation, "b", consistency=Consistency.STRONG)) == 1
    await store.delete_images(generation, ["a"])
    assert await counts(store, generation) == (0, 1)


async def test_searches_see_no_gap_while_segments_are_replaced(store: VectorStore, generation: Generation) -> None:
    vectors = vectors_of(3)
    rows = [segment("a", index, vectors[index]) for index in range(3)]
    await store.replace_segments(generation, "a", rows)
    seen: list[int] = []

    async def look() -> None:
        while len(seen) < 10:
            hits = await store.search_segments(generation, vectors[:1], limit=5, params=STRONG)
            seen.append(len({hit.index for hit in hits[0]}))

    async def write() -> None:
        while len(seen) < 10:
            await store.replace_segments(generation, "a", rows)

    await asyncio.gather(look(), write())
    assert set(seen) == {3}


async def test_hits_are_the_most_similar(store: VectorStore, generation: Generation) -> None:
    vectors = vectors_of(200)
    await store.upsert_images(generation, [image(f"i{number}", vector) for number, vector in enumerate(vectors)])
    probes = vectors_of(3, seed=5)
    truth = probes @ vectors.T
    for params in (STRONG, SearchParams(exact=True), SearchParams(nprobe=128)):
        found = await store.search_images(generation, probes, limit=10, params=params)
        for similarities, hits in zip(truth, found, strict=True):
            best = np.argsort(-similarities)[:10]
            assert [hit.id for hit in hits] == [f"i{number}" for number in best]
            assert [hit.similarity for hit in hits] == pytest.approx(similarities[best].tolist(), abs=1e-5)

    await store.replace_segments(generation, "i7", [segment("i7", 0, vectors[0]), segment("i7", 1, vectors[1])])
    hit = (await store.search_segments(generation, vectors[1:2], limit=1, params=STRONG))[0][0]
    assert (hit.image_id, hit.index) == ("i7", 1)
    assert hit.similarity == pytest.approx(1, abs=1e-5)


def put_index_in_force(engine: MilvusServer, name: str) -> None:
    """Until rows are written out and their index is built and loaded, engines compare with every one."""
    client = MilvusClient(engine.uri)
    client.flush(name)
    assert wait_until(lambda: client.describe_index(name, "vector")["state"] == "Finished", timeout_s=60)
    client.release_collection(name)
    client.load_collection(name)
    client.close()


async def test_a_filter_finds_what_lies_far_away(engine: MilvusServer, store: VectorStore) -> None:
    """A search looks into some of the index's lists; rows that pass a filter may lie in the others."""
    generation = Generation("far", 1, DIMENSION, "model-a")
    await store.create_generation(generation)
    near = np.zeros(DIMENSION, dtype=np.float32)
    near[0] = 1
    spread = vectors_of(4_000)
    ordered = spread[np.argsort(spread @ near)]
    rows = [image(f"i{number:04d}", vector, width=1 if number < 20 else 2) for number, vector in enumerate(ordered)]
    await store.upsert_images(generation, rows)
    await asyncio.to_thread(put_index_in_force, engine, images_name(generation))
    where = compile_filter(types_pb2.Filter(width=types_pb2.Filter.Range(max=1)), FilterTarget.IMAGES)
    few = SearchParams(nprobe=1, consistency=Consistency.STRONG)
    (hits,) = await store.search_images(generation, near[None], limit=50, where=where, params=few)
    assert {hit.id for hit in hits} == {f"i{number:04d}" for number in range(20)}


async def test_an_empty_generation_finds_nothing(store: VectorStore, generation: Generation) -> None:
    assert await store.search_images(generation, vectors_of(2), limit=5, params=STRONG) == [[], []]
    assert await store.search_segments(generation, vectors_of(1), limit=5) == [[]]
    assert await store.get_images(generation, []) == {}
    assert await store.get_segments(generation, "a") == []
    assert await store.get_segment_vectors(generation, ["a"]) == {}
    assert await store.get_image_vectors(generation, []) == {}
    assert await store.list_image_ids(generation, where="width > 0") == []
    assert await counts(store, generation) == (0, 0)
    await store.upsert_images(generation, [])
    await store.delete_images(generation, [])


async def test_lists_are_sorted_and_go_on_where_they_stopped(store: VectorStore, filtered: Generation) -> None:
    where = compile_filter(types_pb2.Filter(width=types_pb2.Filter.Range(min=101)), FilterTarget.IMAGES)
    wanted = sorted(row.id for row in image_rows() if row.width >= 101)
    got: list[str] = []
    while page := await store.list_image_ids(filtered, where=where, start_after=got[-1] if got else "", limit=7):
        got += page
    assert got == wanted
    segments_where = compile_filter(
        types_pb2.Filter(width=types_pb2.Filter.Range(min=101)), FilterTarget.IMAGES_OF_SEGMENTS
    )
    assert await store.count_images(filtered, where=where) == len(wanted)
    assert await store.count_segments(filtered, where=segments_where) == 2 * len(wanted)


async def test_large_writes_and_reads_are_split(store: VectorStore, generation: Generation) -> None:
    vectors = vectors_of(1_100)
    ids = [f"i{number:04d}" for number in range(1_100)]
    await store.upsert_images(generation, [image(name, vector) for name, vector in zip(ids, vectors, strict=True)])
    await asyncio.gather(
        *[
            store.replace_segments(generation, name, [segment(name, index, vectors[index]) for index in range(64)])
            for name in ids[:70]
        ]
    )
    assert await counts(store, generation) == (1_100, 70 * 64)
    got = await store.get_segment_vectors(generation, ids[:300])
    assert list(map(len, got.values())) == [64] * 70
    assert len(await store.get_images(generation, ids)) == 1_100
    await store.delete_images(generation, ids[1:])
    assert await counts(store, generation) == (1, 64)


async def test_what_does_not_fit_is_refused_by_name(store: VectorStore, generation: Generation) -> None:
    vector = vectors_of(1)[0]
    good = image("a", vector)
    bad_rows = {
        "rows[1].vector": replace(good, vector=vector[:2]),
        "rows[1].tags[1]": replace(good, tags={"ok": 1.0, "x" * 257: 1.0}),
        "rows[1].tags": replace(good, tags={f"t{number}": 1.0 for number in range(1_025)}),
        "rows[1].metadata": replace(good, metadata={"long": "x" * 70_000}),
    }
    for field, row in bad_rows.items():
        with pytest.raises(InvalidArgument) as caught:
            await store.upsert_images(generation, [good, row])
        assert caught.value.field == field
    for bad in (np.full(DIMENSION, np.nan, dtype=np.float32), vector[:3]):
        with pytest.raises(InvalidArgument):
            await store.search_images(generation, bad[None], limit=1)
    with pytest.raises(InvalidArgument, match="limit"):
        await store.search_images(generation, vector[None], limit=0)
    with pytest.raises(InvalidArgument):
        await store.replace_segments(generation, "a", [segment("b", 0, vector)])
    with pytest.raises(InvalidArgument) as caught:
        await store.replace_segments(generation, "a", [segment("a", 64, vector)])
    assert caught.value.field == "rows[0].index"
    assert await counts(store, generation) == (0, 0)


async def test_the_largest_rows_fit(store: VectorStore, generation: Generation) -> None:
    row = replace(
        image("a" * 64, vectors_of(1)[0]),
        tags={f"{number:02d}{'😀' * 62}": 1.0 for number in range(64)},
        metadata={"long": "ü" * 32_000},
    )
    await store.upsert_images(generation, [row])
    part = replace(segment(row.id, 63, row.vector), tags=row.tags, image_tags=row.tags, metadata=row.metadata)
    await store.replace_segments(generation, row.id, [part])
    assert await store.get_images(generation, [row.id], consistency=Consistency.STRONG) == {row.id: row}
    assert await store.get_segments(generation, row.id, consistency=Consistency.STRONG) == [part]
