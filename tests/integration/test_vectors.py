"""The vector index on both engines: what it stores, finds and filters, and how it fails."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pymilvus import MilvusClient

from saccade.common.v1 import types_pb2
from services.common.deadline import call_deadline
from services.common.domain import Box, Vector
from services.common.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Overloaded,
    Unavailable,
)
from services.common.settings import VectorSettings
from services.common.vectors import (
    Consistency,
    FilterTarget,
    Generation,
    ImageRow,
    SearchParams,
    SegmentRow,
    VectorStore,
    compile_filter,
)
from tests.engines import MilvusServer, milvus_lite, milvus_real
from tests.unit.common.vectors.filter_model import DIMENSION, filters, image_rows, passes, segment_rows

STRONG: Final = SearchParams(consistency=Consistency.STRONG)


class StartMilvus(Protocol):
    def __call__(self, data_dir: Path) -> AbstractContextManager[MilvusServer]: ...


@pytest.fixture(scope="module", params=[milvus_lite, milvus_real], ids=["lite", "real"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    start: StartMilvus = request.param
    with start(tmp_path_factory.mktemp("milvus")) as server:
        yield server


def settings_for(engine: MilvusServer) -> VectorSettings:
    # Patient: what is shown here is what the answers are, on machines that do other work too.
    return VectorSettings(milvus_uri=engine.uri, milvus_timeout_s=60)


@pytest.fixture
async def store(engine: MilvusServer) -> AsyncIterator[VectorStore]:
    vectors = VectorStore(settings_for(engine))
    yield vectors
    await vectors.close()


names = (f"c{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def shared(engine: MilvusServer) -> Generation:
    """A generation that tests have to themselves one after the other: Milvus takes seconds to make one."""

    async def make() -> Generation:
        store = VectorStore(settings_for(engine))
        made = Generation("shared", 1, DIMENSION, "model-a")
        await store.create_generation(made)
        await store.close()
        return made

    return asyncio.run(make())


@pytest.fixture
async def generation(store: VectorStore, shared: Generation) -> AsyncIterator[Generation]:
    yield shared
    ids = await store.list_image_ids(shared, where="", limit=10_000)
    await store.delete_images(shared, [*ids, "a", "b"])
    assert await store.count(shared) == (0, 0)


@pytest.fixture(scope="module")
def filtered(engine: MilvusServer) -> Generation:
    """A generation with the rows of the filter model, for tests that only read."""

    async def fill() -> Generation:
        store = VectorStore(settings_for(engine))
        made = Generation("filtered", 1, DIMENSION, "model-a")
        await store.create_generation(made)
        await store.upsert_images(made, image_rows())
        by_image = itertools.groupby(segment_rows(), key=lambda row: row.image_id)
        await asyncio.gather(*[store.replace_segments(made, image_id, list(rows)) for image_id, rows in by_image])
        assert await store.count(made) == (len(image_rows()), len(segment_rows()))
        await store.close()
        return made

    return asyncio.run(fill())


def vectors_of(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors, shape [count, DIMENSION]."""
    array = np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)
    return np.asarray(array / np.linalg.norm(array, axis=1, keepdims=True), dtype=np.float32)


def image(image_id: str, vector: Vector, *, width: int = 640) -> ImageRow:
    return ImageRow(image_id, vector, ("cat", "Käse"), {"n": 1.5, "deep": {"flag": True}}, width, 480, 1_000)


def segment(image_id: str, index: int, vector: Vector) -> SegmentRow:
    box = Box(0.0, 0.25, 0.5, 1.0)
    return SegmentRow(image_id, index, vector, box, 0.25, 0.5, ("ear",), ("cat",), {"n": 1.5}, 640, 480, 1_000)


async def test_rows_come_back_as_they_went_in(store: VectorStore, generation: Generation) -> None:
    vectors = vectors_of(3)
    rows = [image("a", vectors[0]), image("_b.c-d", vectors[1])]
    segments = [segment("a", index, vectors[index]) for index in range(3)]
    await store.upsert_images(generation, rows)
    await store.replace_segments(generation, "a", segments)

    got = await store.get_images(generation, ["a", "nowhere", "_b.c-d", "a"], consistency=Consistency.STRONG)
    assert got == {row.id: row for row in rows}
    np.testing.assert_array_equal(got["a"].vector, vectors[0])
    got_segments = await store.get_segments(generation, ["a", "_b.c-d"], consistency=Consistency.STRONG)
    assert got_segments == {"a": segments}
    np.testing.assert_array_equal(got_segments["a"][2].vector, vectors[2])


async def test_every_acknowledged_write_is_seen_at_once(store: VectorStore, generation: Generation) -> None:
    vectors = vectors_of(6)
    for number, vector in enumerate(vectors):
        await store.upsert_images(generation, [image(f"i{number}", vector)])
        hits = await store.search_images(generation, vector[None], limit=1, params=STRONG)
        assert [hit.id for hit in hits[0]] == [f"i{number}"]
        assert hits[0][0].similarity == pytest.approx(1, abs=1e-5)
        assert await store.count(generation) == (number + 1, 0)
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
        got = await store.get_segments(generation, ["a", "b"], consistency=Consistency.STRONG)
        assert [row.index for row in got.get("a", [])] == list(range(count))
        assert len(got["b"]) == 1
    await store.delete_images(generation, ["a"])
    assert await store.count(generation) == (0, 1)


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


async def test_hits_are_the_most_similar_and_carry_their_boxes(store: VectorStore, generation: Generation) -> None:
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
    assert (hit.image_id, hit.index, hit.box, hit.area) == ("i7", 1, Box(0.0, 0.25, 0.5, 1.0), 0.25)


async def test_an_empty_generation_finds_nothing(store: VectorStore, generation: Generation) -> None:
    assert await store.search_images(generation, vectors_of(2), limit=5, params=STRONG) == [[], []]
    assert await store.search_segments(generation, vectors_of(1), limit=5) == [[]]
    assert await store.get_images(generation, []) == {}
    assert await store.get_segments(generation, ["a"]) == {}
    assert await store.list_image_ids(generation, where="width > 0") == []
    assert await store.count(generation) == (0, 0)
    await store.upsert_images(generation, [])
    await store.delete_images(generation, [])


def comparison(value: float) -> types_pb2.Filter:
    message = types_pb2.Filter()
    message.metadata.path.append("a")
    message.metadata.equals.number_value = value
    return message


def large_filters() -> Iterator[types_pb2.Filter]:
    """Filters at each limit: wide, deep, wide and deep, long."""
    yield types_pb2.Filter(any=types_pb2.Filter.Any(filters=[comparison(number) for number in range(256)]))
    deep = comparison(1)
    for level in range(14):
        parts = [deep, *[comparison(number) for number in range(16)]]
        if level % 2:
            deep = types_pb2.Filter(all=types_pb2.Filter.All(filters=parts))
        else:
            deep = types_pb2.Filter(any=types_pb2.Filter.Any(filters=parts))
    yield deep
    yield types_pb2.Filter(ids=types_pb2.Filter.Ids(ids=[f"{number:064d}" for number in range(1000)]))
    names = [f"{number:03d}" + "x" * 250 for number in range(64)]
    yield types_pb2.Filter(tags=types_pb2.Filter.Tags(names=names))


async def test_the_largest_filters_are_understood(store: VectorStore, filtered: Generation) -> None:
    rows, target, probe = image_rows(), FilterTarget.IMAGES, vectors_of(1)
    for message in large_filters():
        for wanted in (message, types_pb2.Filter(negated=message)):
            hits = await store.search_images(
                filtered, probe, limit=1000, where=compile_filter(wanted, target), params=SearchParams(exact=True)
            )
            assert {hit.id for hit in hits[0]} == {row.id for row in rows if passes(wanted, row, target)}


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
    counts = await store.count(filtered, where=where, segments_where=segments_where)
    assert counts == (len(wanted), 2 * len(wanted))


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
    assert await store.count(generation) == (1_100, 70 * 64)
    got = await store.get_segments(generation, ids[:200])
    assert list(map(len, got.values())) == [64] * 70
    assert len(await store.get_images(generation, ids)) == 1_100
    await store.delete_images(generation, ids[1:])
    assert await store.count(generation) == (1, 64)


async def test_a_generation_is_made_once_and_for_one_model(store: VectorStore, generation: Generation) -> None:
    await store.upsert_images(generation, [image("a", vectors_of(1)[0])])
    await asyncio.gather(store.create_generation(generation), store.create_generation(generation))
    assert await store.count(generation) == (1, 0)
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
    assert await stores[0].count(made) == (1, 0)
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
        assert await store.count(other) == (0, 0)
    with pytest.raises(NotFound):
        await store.count(generation)
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
    assert await other.count(anew) == (1, 0)
    await store.drop_collection(made.collection)
    await other.close()


async def test_what_does_not_fit_is_refused_by_name(store: VectorStore, generation: Generation) -> None:
    vector = vectors_of(1)[0]
    good = image("a", vector)
    bad_rows = {
        "rows[1].vector": replace(good, vector=vector[:2]),
        "rows[1].tags[1]": replace(good, tags=("ok", "x" * 257)),
        "rows[1].tags": replace(good, tags=tuple(f"t{number}" for number in range(1_025))),
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
    assert await store.count(generation) == (0, 0)


async def test_the_largest_rows_fit(store: VectorStore, generation: Generation) -> None:
    row = replace(
        image("a" * 64, vectors_of(1)[0]),
        tags=tuple(f"{number:02d}{'😀' * 62}" for number in range(64)),
        metadata={"long": "ü" * 32_000},
    )
    await store.upsert_images(generation, [row])
    part = replace(segment(row.id, 63, row.vector), tags=row.tags, image_tags=row.tags, metadata=row.metadata)
    await store.replace_segments(generation, row.id, [part])
    assert await store.get_images(generation, [row.id], consistency=Consistency.STRONG) == {row.id: row}
    assert await store.get_segments(generation, [row.id], consistency=Consistency.STRONG) == {row.id: [part]}


async def test_a_generation_that_is_not_there_is_named(store: VectorStore) -> None:
    missing = Generation("nowhere", 1, DIMENSION, "model-a")
    vectors = vectors_of(1)
    calls = [
        store.search_images(missing, vectors, limit=1),
        store.upsert_images(missing, [image("a", vectors[0])]),
        store.delete_images(missing, ["a"]),
        store.get_segments(missing, ["a"]),
        store.count(missing),
    ]
    for call in calls:
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.reason == "INDEX_MISSING"


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@given(data=st.data())
@pytest.mark.timeout(300)
async def test_a_filter_passes_what_it_says(store: VectorStore, filtered: Generation, data: st.DataObject) -> None:
    target = data.draw(st.sampled_from(FilterTarget))
    wanted = data.draw(filters(target))
    where = compile_filter(wanted, target)
    probe = np.ones((1, DIMENSION), dtype=np.float32)
    exact = SearchParams(exact=True)
    if target is FilterTarget.IMAGES:
        images = [row.id for row in image_rows() if passes(wanted, row, target)]
        hits = (await store.search_images(filtered, probe, limit=1000, where=where, params=exact))[0]
        assert sorted(hit.id for hit in hits) == sorted(images), where
    else:
        segments = [(row.image_id, row.index) for row in segment_rows() if passes(wanted, row, target)]
        found = (await store.search_segments(filtered, probe, limit=1000, where=where, params=exact))[0]
        assert sorted((hit.image_id, hit.index) for hit in found) == sorted(segments), where


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
        assert await store.count(generation) == (2, 0)
        await store.close()
