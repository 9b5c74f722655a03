"""Every kind of index and metric on both engines."""

import itertools
from collections.abc import AsyncIterator

import numpy as np
import pytest
from pymilvus import MilvusClient

from saccade.common.v1 import types_pb2
from services.common.errors import FailedPrecondition
from services.common.records import IndexSpec, IndexType, Metric
from services.common.vectors import Consistency, FilterTarget, Generation, SearchParams, VectorStore, compile_filter
from services.common.vectors.schema import bits_name, images_name, segments_name
from tests.engines import MilvusServer
from tests.integration.vectors_support import STRONG, counts, image, segment, vectors_of
from tests.unit.common.vectors.filter_model import DIMENSION

KINDS = [IndexType.IVF_FLAT, IndexType.HNSW, IndexType.FLAT]
numbers = itertools.count()


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("kind", KINDS)
async def test_hits_carry_the_cosine(store: VectorStore, kind: IndexType, metric: Metric) -> None:
    made = Generation(f"k{next(numbers)}", 1, DIMENSION, "model-a", IndexSpec(type=kind, metric=metric, nlist=16))
    await store.create_generation(made)
    vectors, probes = vectors_of(300), vectors_of(3, seed=5)
    await store.upsert_images(made, [image(f"i{number}", vector) for number, vector in enumerate(vectors)])
    truth = probes @ vectors.T
    for params in (STRONG, SearchParams(exact=True, consistency=Consistency.STRONG)):
        found = await store.search_images(made, probes, limit=200, params=params)
        for similarities, hits in zip(truth, found, strict=True):
            best = np.argsort(-similarities)[:200]
            assert [hit.id for hit in hits] == [f"i{number}" for number in best]
            assert [hit.similarity for hit in hits] == pytest.approx(similarities[best].tolist(), abs=1e-5)
    await store.drop_collection(made.collection)


@pytest.fixture
async def lsh(engine: MilvusServer, store: VectorStore) -> AsyncIterator[Generation]:
    made = Generation(f"lsh{next(numbers)}", 1, DIMENSION, "model-a", IndexSpec(type=IndexType.LSH))
    try:
        await store.check_index(made)
    except FailedPrecondition as refused:
        assert (refused.field, refused.reason) == ("index.type", "INDEX_UNAVAILABLE")
        with pytest.raises(FailedPrecondition, match="milvus-lite"):
            await store.create_generation(made)
        client = MilvusClient(engine.uri)
        assert not [name for name in client.list_collections() if name.startswith(made.collection)]
        client.close()
        pytest.skip("milvus-lite has no binary vectors, and says so")
    await store.create_generation(made)
    yield made
    await store.drop_collection(made.collection)


async def test_signs_find_what_vectors_find(store: VectorStore, lsh: Generation) -> None:
    vectors, probes = vectors_of(2_000), vectors_of(3, seed=5)
    rows = [image(f"i{number}", vector, width=number) for number, vector in enumerate(vectors)]
    await store.upsert_images(lsh, rows)
    where = compile_filter(types_pb2.Filter(width=types_pb2.Filter.Range(min=1_000)), FilterTarget.IMAGES)
    for text, passing in (("", np.arange(2_000)), (where, np.arange(1_000, 2_000))):
        truth = probes @ vectors[passing].T
        for params in (STRONG, SearchParams(exact=True, consistency=Consistency.STRONG)):
            found = await store.search_images(lsh, probes, limit=10, where=text, params=params)
            for similarities, hits in zip(truth, found, strict=True):
                best = [f"i{passing[at]}" for at in np.argsort(-similarities)[:10]]
                assert len(set(best) & {hit.id for hit in hits}) >= (10 if params.exact else 8)
                assert hits[0].similarity == pytest.approx(float(similarities.max()), abs=1e-5)
    # Fewer candidates than results: as many as there are results.
    one = SearchParams(nprobe=1, consistency=Consistency.STRONG)
    assert len((await store.search_images(lsh, probes[:1], limit=50, params=one))[0]) == 50


async def test_signs_stay_in_line_with_their_rows(engine: MilvusServer, store: VectorStore, lsh: Generation) -> None:
    first, second = vectors_of(2)
    client = MilvusClient(engine.uri)

    def beside() -> tuple[int, int]:
        """Rows of signs of images and of segments."""
        names = (bits_name(images_name(lsh)), bits_name(segments_name(lsh)))
        found = [client.query(n, "", output_fields=["count(*)"], consistency_level="Strong") for n in names]
        return found[0][0]["count(*)"], found[1][0]["count(*)"]

    await store.upsert_images(lsh, [image("a", first), image("b", second)])
    await store.replace_segments(lsh, "a", [segment("a", 0, first), segment("a", 1, second)])
    await store.upsert_segments(lsh, [segment("b", 0, second)])
    assert await counts(store, lsh) == beside() == (2, 3)
    await store.upsert_images(lsh, [image("a", -first)])
    await store.replace_segments(lsh, "a", [segment("a", 0, -first)])
    assert await counts(store, lsh) == beside() == (2, 2)
    (hits,) = await store.search_images(lsh, -first[None], limit=1, params=STRONG)
    assert hits[0].id == "a" and hits[0].similarity == pytest.approx(1, abs=1e-5)
    (found,) = await store.search_segments(lsh, -first[None], limit=1, params=STRONG)
    assert found[0].image_id == "a" and found[0].similarity == pytest.approx(1, abs=1e-5)
    await store.delete_images(lsh, ["a"])
    assert await counts(store, lsh) == beside() == (1, 1)
    await store.drop_generation(lsh)
    assert not [name for name in client.list_collections() if name.startswith(lsh.collection)]
    client.close()
