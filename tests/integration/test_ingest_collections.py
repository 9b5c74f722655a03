"""Collections, lists and vocabularies of a real ingest process, with milvus-lite, local objects and the toy models."""

import grpc
import pytest

from saccade.common.v1 import types_pb2
from saccade.ingest.v1 import ingest_service_pb2 as pb
from saccade.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from tests.engines import wait_until
from tests.integration.ingest_support import (
    DURABLE,
    SEARCHABLE,
    SEGMENTED,
    T,
    counts,
    create,
    get,
    listed,
    make_collection,
    picture,
    refused,
    tagged,
)


def test_pages(ingest: IngestServiceStub, collection: str) -> None:
    ids = [f"i{i:02}" for i in range(25)]
    for i, image_id in enumerate(ids):
        wait_for = SEARCHABLE if i == len(ids) - 1 else DURABLE
        create(ingest, collection, picture(seed=i), id=image_id, tags=["all", f"odd{i % 2}"], wait_for=wait_for)
    assert wait_until(lambda: counts(ingest, collection)[0] == len(ids), timeout_s=T)
    for where, wanted in ((None, ids), (tagged("all"), ids), (tagged("odd1"), ids[1::2])):
        request = pb.ListImagesRequest(collection=collection, filter=where, page_size=7)
        found: list[str] = []
        for _ in range(10):
            page = ingest.ListImages(request, timeout=T)
            found += [image.id for image in page.images]
            assert len(page.images) <= 7
            assert not page.images[0].segments
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert found == wanted

    token = ingest.ListImages(pb.ListImagesRequest(collection=collection, page_size=7), timeout=T).next_page_token
    for fields in (
        {"page_size": -1},
        {"page_size": 1_001},
        {"page_token": "made up"},
        {"page_token": token, "filter": tagged("all")},
    ):
        error = refused(ingest.ListImages, pb.ListImagesRequest(collection=collection, **fields))
        assert (error.code, error.fields[0][0]) == (grpc.StatusCode.INVALID_ARGUMENT, next(iter(fields)))
    empty = types_pb2.Filter(all=types_pb2.Filter.All())
    error = refused(ingest.ListImages, pb.ListImagesRequest(collection=collection, filter=empty))
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT
    assert error.fields[0][0].startswith("filter.all")


def test_collections(ingest: IngestServiceStub) -> None:
    index = pb.IndexSpec(target_recall=0.9, nlist=16)
    name = make_collection(ingest, description="Of mine", index=index)
    found = ingest.GetCollection(pb.GetCollectionRequest(name=name), timeout=T).collection
    assert (found.description, found.model, found.fingerprint, found.generation) == ("Of mine", "toy", "toy-1", 1)
    assert (found.index.type, found.index.metric) == (pb.INDEX_TYPE_IVF_FLAT, pb.METRIC_COSINE)
    assert (round(found.index.target_recall, 3), found.index.nlist) == (0.9, 16)
    assert found.create_time.seconds > 0
    error = refused(ingest.CreateCollection, pb.CreateCollectionRequest(collection=pb.Collection(name=name)))
    assert (error.code, error.fields[0][0]) == (grpc.StatusCode.ALREADY_EXISTS, "collection.name")

    request = pb.ListCollectionsRequest(page_size=2)
    names: list[str] = []
    while True:
        page = ingest.ListCollections(request, timeout=T)
        names += [collection.name for collection in page.collections]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert name in names
    assert names == sorted(names)
    error = refused(ingest.ListCollections, pb.ListCollectionsRequest(page_size=-5))
    assert error.fields[0][0] == "page_size"


@pytest.mark.parametrize(
    ("collection", "code", "field"),
    [
        (pb.Collection(), grpc.StatusCode.INVALID_ARGUMENT, "collection.name"),
        (pb.Collection(name="Upper"), grpc.StatusCode.INVALID_ARGUMENT, "collection.name"),
        (pb.Collection(name="a" * 49), grpc.StatusCode.INVALID_ARGUMENT, "collection.name"),
        (pb.Collection(name="x", model="other"), grpc.StatusCode.NOT_FOUND, "collection.model"),
        (pb.Collection(name="x", fingerprint="f"), grpc.StatusCode.FAILED_PRECONDITION, "collection.fingerprint"),
        (pb.Collection(name="x", vocabulary="none"), grpc.StatusCode.NOT_FOUND, "collection.vocabulary"),
        (
            # milvus-lite has no binary vectors.
            pb.Collection(name="x", index=pb.IndexSpec(type=pb.INDEX_TYPE_LSH)),
            grpc.StatusCode.FAILED_PRECONDITION,
            "collection.index.type",
        ),
    ],
)
def test_collections_that_are_not_made(
    ingest: IngestServiceStub, collection: pb.Collection, code: grpc.StatusCode, field: str
) -> None:
    error = refused(ingest.CreateCollection, pb.CreateCollectionRequest(collection=collection))
    assert (error.code, error.fields[0][0]) == (code, field), error


def test_a_collection_is_removed(ingest: IngestServiceStub) -> None:
    name = make_collection(ingest)
    create(ingest, name, picture(), wait_for=DURABLE)
    error = refused(ingest.DeleteCollection, pb.DeleteCollectionRequest(name=name))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "COLLECTION_NOT_EMPTY")
    ingest.DeleteCollection(pb.DeleteCollectionRequest(name=name, force=True), timeout=T)
    for call, request in (
        (ingest.GetCollection, pb.GetCollectionRequest(name=name)),
        (ingest.DeleteCollection, pb.DeleteCollectionRequest(name=name)),
        (ingest.ListImages, pb.ListImagesRequest(collection=name)),
        (ingest.CreateImage, pb.CreateImageRequest(collection=name, image=pb.NewImage(data=picture()))),
    ):
        assert refused(call, request).code == grpc.StatusCode.NOT_FOUND
    make_collection(ingest, name=name)
    assert listed(ingest, name) == []
    ingest.DeleteCollection(pb.DeleteCollectionRequest(name=name), timeout=T)


def test_tags_come_from_the_collections_vocabulary(ingest: IngestServiceStub) -> None:
    entries = [pb.Vocabulary.Entry(name=name, category="colour") for name in ("red", "blue", "green", "yellow")]
    vocabulary = pb.Vocabulary(name="colours", prompt_templates=["{}"], entries=entries)
    put = ingest.PutVocabulary(pb.PutVocabularyRequest(vocabulary=vocabulary), timeout=T)
    assert put.vocabulary == vocabulary
    assert ingest.GetVocabulary(pb.GetVocabularyRequest(name="colours"), timeout=T).vocabulary == vocabulary
    assert ingest.GetVocabulary(pb.GetVocabularyRequest(), timeout=T).vocabulary.name == "general"
    error = refused(ingest.GetVocabulary, pb.GetVocabularyRequest(name="none"))
    assert (error.code, error.fields[0][0]) == (grpc.StatusCode.NOT_FOUND, "name")

    collection = make_collection(ingest, vocabulary="colours")
    create(ingest, collection, picture("red", "blue"), id="a", wait_for=SEGMENTED)
    image = get(ingest, collection, "a")
    # The first covers most of the picture: it is the background.
    assert [[tag.name for tag in segment.tags] for segment in image.segments] == [[], ["blue"]]
    assert {tag.name: tag.category for tag in image.tags} == {"blue": "colour"}
    assert listed(ingest, collection, filter=tagged("blue")) == ["a"]
