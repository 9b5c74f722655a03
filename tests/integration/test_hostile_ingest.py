"""The ingest service and somebody who means harm, or did not mean to tell where they were."""

import base64
import hashlib
from collections.abc import Iterator

import grpc
import pytest

from saccade.common.v1 import types_pb2
from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.records import original_key, thumbnail_key
from tests.engines import free_port, milvus_lite
from tests.fuzz.frames import INTERNALS
from tests.fuzz.pictures import forged
from tests.integration.ingest_support import (
    SEGMENTED,
    Ingest,
    Stack,
    create,
    embedder_process,
    get,
    ingest_process,
    make_collection,
    picture,
    read,
    refused,
)
from tests.unit.common.location.located import PLACE, located

FORGED = 60


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Ingest]]:
    folder = tmp_path_factory.mktemp("hostile")
    port = free_port()
    with milvus_lite(folder / "milvus") as milvus, embedder_process(port):
        stack = Stack(milvus, port, folder / "objects")
        with ingest_process(stack) as ingest:
            yield stack, ingest


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "tiff"])
def test_an_original_is_kept_without_its_place_and_known_again(stack: tuple[Stack, Ingest], form: str) -> None:
    behind, ingest = stack
    collection, data = make_collection(ingest.stub), located(form)
    stored = create(ingest.stub, collection, data, wait_for=SEGMENTED)
    kept = read(behind, original_key(collection, stored.image.id))
    assert PLACE in data
    assert PLACE not in kept
    assert PLACE not in read(behind, thumbnail_key(collection, stored.image.id))
    assert stored.image.sha256 == hashlib.sha256(data).hexdigest()
    assert stored.image.size_bytes == len(kept)
    # As the file stands: upright it is higher than wide.
    assert (stored.image.width, stored.image.height) == (72, 96)
    again = create(ingest.stub, collection, data, wait_for=SEGMENTED)
    assert (again.existed, again.image.id, again.image.etag) == (True, stored.image.id, stored.image.etag)


def test_a_service_may_be_told_to_keep_places(stack: tuple[Stack, Ingest]) -> None:
    behind, _ = stack
    settings = {"SACCADE_INGEST_KEEP_LOCATION": "true"}
    keeping = Stack(behind.milvus, behind.embedder_port, behind.objects, settings)
    with ingest_process(keeping) as ingest:
        collection, data = make_collection(ingest.stub), located("jpeg")
        image_id = create(ingest.stub, collection, data).image.id
        assert read(keeping, original_key(collection, image_id)) == data


def test_forged_pictures_are_stored_or_refused_as_pictures(stack: tuple[Stack, Ingest]) -> None:
    _, ingest = stack
    collection, taken = make_collection(ingest.stub), 0
    for seed in range(200_000, 200_000 + FORGED):
        try:
            create(ingest.stub, collection, forged(seed) or b"x")
            taken += 1
        except grpc.RpcError as exc:
            assert exc.code() is grpc.StatusCode.INVALID_ARGUMENT, (seed, exc)
            said = str(exc.details()).encode()
            assert not [word for word in INTERNALS if word in said]
    assert 0 < taken < FORGED
    assert create(ingest.stub, collection, picture("red", "blue", seed=77)).image.id


@pytest.mark.parametrize("name", ["../a", "a/b", "a\x00", "a\u202e", "A", "x" * 100_000, "%2e%2e", "a;drop"])
def test_names_with_tricks(stack: tuple[Stack, Ingest], name: str) -> None:
    _, ingest = stack
    collection = make_collection(ingest.stub)
    image = pb.NewImage(data=picture(), id=name)
    for call, request in (
        (ingest.stub.CreateImage, pb.CreateImageRequest(collection=collection, image=image)),
        (ingest.stub.CreateImage, pb.CreateImageRequest(collection=name, image=pb.NewImage(data=picture()))),
        (ingest.stub.GetImage, pb.GetImageRequest(collection=collection, id=name)),
        (ingest.stub.DeleteImage, pb.DeleteImageRequest(collection=collection, id=name)),
        (ingest.stub.CreateCollection, pb.CreateCollectionRequest(collection=pb.Collection(name=name))),
    ):
        error = refused(call, request)
        assert error.code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
        assert len(error.message) < 500


def test_page_tokens_of_somebody_elses(stack: tuple[Stack, Ingest]) -> None:
    _, ingest = stack
    collection, other = make_collection(ingest.stub), make_collection(ingest.stub)
    for seed in range(3):
        for name in (collection, other):
            create(ingest.stub, name, picture(seed=seed))
    token = ingest.stub.ListImages(pb.ListImagesRequest(collection=collection, page_size=1), timeout=20).next_page_token
    assert token
    forgeries = [
        token[:-1],
        token[:5],
        token + "A",
        "A" * len(token),
        base64.b64encode(b"[1, 2]").decode(),
        "\x00",
        "é",
    ]
    for forgery in forgeries:
        error = refused(ingest.stub.ListImages, pb.ListImagesRequest(collection=collection, page_token=forgery))
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN")
    error = refused(ingest.stub.ListImages, pb.ListImagesRequest(collection=other, page_token=token))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN")
    tagged = types_pb2.Filter(tags=types_pb2.Filter.Tags(names=['"] or id != ["']))
    error = refused(
        ingest.stub.ListImages, pb.ListImagesRequest(collection=collection, filter=tagged, page_token=token)
    )
    assert error.reason == "PAGE_TOKEN"


def test_a_flood_of_tags_is_refused_at_once(stack: tuple[Stack, Ingest]) -> None:
    _, ingest = stack
    collection = make_collection(ingest.stub)
    image = pb.NewImage(data=picture(), id="flood", tags=["tag"] * 1_000_000)
    error = refused(ingest.stub.CreateImage, pb.CreateImageRequest(collection=collection, image=image))
    assert error.fields[0][0] == "image.tags"
    assert refused(lambda *_, **__: get(ingest.stub, collection, "flood"), None).code is grpc.StatusCode.NOT_FOUND
