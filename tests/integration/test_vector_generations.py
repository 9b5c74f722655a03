"""Generations of the vector index on both engines: made, named, removed, and an engine that goes and comes back."""

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pymilvus import MilvusClient

from services.common.deadline import call_deadline
from services.common.errors import DeadlineExceeded, FailedPrecondition, NotFound, Overloaded, Unavailable
from services.common.vectors import Generation, IndexMissing, VectorStore, split_segment_id
from tests.engines import MilvusServer, milvus_lite, milvus_real
from tests.integration.vectors_support import STRONG, StartMilvus, counts, image, segment, settings_for, vectors_of
from tests.unit.common.vectors.filter_model import DIMENSION

names = (f"c{number}" for number in itertools.count())


async def test_a_generation_is_made_once_and_for_one_model(store: VectorStore, generation: Generation) -> None:
    await store.upsert_images(generation, [image("a", vectors_of(1)[0])])
    await asyncio.gather(store.create_generation(generation), store.create_generation(generation))
    assert await counts(store, generation) == (1, 0)
    for other in (replace(generation, fingerprint="model-b"), replace(generation, dimension=DIMENSION + 1)):
        with pytest.raises(FailedPrecondition, match="model-a") as caught:
            await store.create_generation(other)
        assert caught.value.reason == "MODEL_MISMATCH"


async def test_two_replicas_make_the_same_generation_at_once(engine: MilvusServer) -> None:
    stores = [VectorStore(settings_for(engine)) for _ in range(3)]
    made = Generation(next(names), 1, DIMENSION, "model-a")
    await asyncio.gather(*[store.create_generation(made) for store in stores])
    for store in stores:
        await store.upsert_images(made, [image("a", vectors_of(1)[0])])
    assert await counts(stores[0], made) == (1, 0)
    await stores[0].drop_collection(made.collection)
    await asyncio.gather(*[store.close() for store in stores])


async def test_aliases_follow_the_live_generation(
    engine: MilvusServer, store: VectorStore, generation: Generation
) -> None:
    with pytest.raises(NotFound):
        await store.activate(replace(generation, number=9))
    first = replace(generation, collection=next(names))
    second = replace(first, number=2, fingerprint="model-b", dimension=3)
    await asyncio.gather(store.create_generation(first), store.create_generation(second))
    for live in (first, first, second):
        await store.activate(live)
        client = MilvusClient(engine.uri)
        for kind in ("images", "segments"):
            name = client.describe_alias(f"{live.collection}_{kind}")["collection_name"]
            assert name == f"{live.collection}_G{live.number}_{kind}"
        client.close()
    await store.drop_collection(first.collection)


async def test_dropping_a_collection_leaves_its_namesakes(store: VectorStore) -> None:
    generation = Generation(next(names), 1, DIMENSION, "model-a")
    namesakes = [f"{generation.collection}_1", f"{generation.collection}_images"]
    others = [replace(generation, collection=name) for name in namesakes]
    await asyncio.gather(*[store.create_generation(each) for each in (generation, *others)])
    await store.activate(generation)
    await store.activate(others[0])
    await store.drop_collection(generation.collection)
    await store.drop_collection(generation.collection)
    for other in others:
        assert await counts(store, other) == (0, 0)
    with pytest.raises(NotFound):
        await store.count_images(generation)
    for other in others:
        await store.drop_collection(other.collection)


async def test_a_collection_may_come_back_with_another_model(engine: MilvusServer, store: VectorStore) -> None:
    other = VectorStore(settings_for(engine))
    made = Generation(next(names), 1, DIMENSION, "model-a")
    await store.create_generation(made)
    await other.upsert_images(made, [image("a", vectors_of(1)[0])])
    await store.drop_collection(made.collection)
    anew = replace(made, dimension=2, fingerprint="model-b")
    await store.create_generation(anew)
    await other.upsert_images(anew, [image("a", np.array([0, 1], dtype=np.float32))])
    assert await counts(other, anew) == (1, 0)
    await store.drop_collection(made.collection)
    await other.close()


async def test_a_generation_that_is_not_there_is_named(store: VectorStore) -> None:
    missing = Generation("nowhere", 1, DIMENSION, "model-a")
    vectors = vectors_of(1)
    calls = [
        store.search_images(missing, vectors, limit=1),
        store.upsert_images(missing, [image("a", vectors[0])]),
        store.delete_images(missing, ["a"]),
        store.get_segments(missing, "a"),
        store.get_segment_vectors(missing, ["a"]),
        store.count_images(missing),
    ]
    for call in calls:
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.reason == "INDEX_MISSING"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("start", [milvus_lite, milvus_real], ids=["lite", "real"])
async def test_an_engine_that_comes_back_is_used_again(start: StartMilvus, tmp_path: Path) -> None:
    with start(tmp_path) as server:
        store = VectorStore(settings_for(server))
        generation = Generation("a", 1, DIMENSION, "model-a")
        vectors = vectors_of(1)
        await store.create_generation(generation)
        await store.upsert_images(generation, [image("a", vectors[0])])

        server.kill()
        for _ in range(3):
            with pytest.raises((Unavailable, DeadlineExceeded)), call_deadline(5):
                await store.search_images(generation, vectors, limit=1)

        server.restart()
        # Milvus first has to see that its predecessor is gone.
        with call_deadline(120):
            while True:
                try:
                    found = await store.search_images(generation, vectors, limit=1, params=STRONG)
                except (Unavailable, Overloaded):
                    await asyncio.sleep(0.2)
                    continue
                if found != [[]]:
                    break
        assert [hit.id for hit in found[0]] == ["a"]
        await store.upsert_images(generation, [image("b", vectors[0])])
        assert await counts(store, generation) == (2, 0)
        await store.close()


async def test_a_survey_tells_what_the_engine_has(store: VectorStore, generation: Generation) -> None:
    first = replace(generation, collection=next(names))
    second = replace(first, number=2)
    nothing = await store.survey(first)
    assert (nothing.complete, nothing.active, nothing.numbers) == (False, False, frozenset())
    with pytest.raises(IndexMissing):
        await store.count_images(first)
    await store.create_generation(first)
    made = await store.survey(first)
    assert (made.complete, made.of_this_model, made.active, made.numbers) == (True, True, False, frozenset({1}))
    await store.activate(first)
    assert (await store.survey(first)).active
    assert (await store.survey(second)).numbers == {1}
    assert not (await store.survey(replace(first, fingerprint="model-b"))).of_this_model
    await store.deactivate(first.collection)
    assert not (await store.survey(first)).active
    await store.drop_generation(first)
    assert await store.survey(first) == nothing


async def test_segments_are_listed_and_removed_one_by_one(store: VectorStore, generation: Generation) -> None:
    vectors = vectors_of(4)
    await store.upsert_segments(
        generation, [segment("a", 0, vectors[0]), segment("a", 12, vectors[1]), segment("a-b", 3, vectors[2])]
    )
    assert await store.segment_indices(generation, ["a", "a-b", "none"]) == {"a": {0, 12}, "a-b": {3}}
    listed = await store.list_segment_ids(generation)
    assert listed == ["a-b/3", "a/0", "a/12"]
    assert [split_segment_id(row) for row in listed] == [("a-b", 3), ("a", 0), ("a", 12)]
    assert await store.list_segment_ids(generation, start_after="a-b/3", limit=1) == ["a/0"]
    await store.delete_segments(generation, "a", [12, 13])
    assert await store.segment_indices(generation, ["a", "a-b"]) == {"a": {0}, "a-b": {3}}
    await store.delete_images(generation, ["a", "a-b"])
