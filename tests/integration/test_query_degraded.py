"""Searches while something is away: what can be answered is, and says what it had to do without."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import pytest
from pymilvus import MilvusClient

from saccade.errors import api_error
from saccade.query.v1 import query_service_pb2 as pb
from saccade.query.v1.query_service_pb2_grpc import QueryServiceStub
from services.common.objects import ObjectStore, open_object_store
from services.common.settings import ObjectSettings
from tests.engines import S3Server, free_port, minio_server, wait_until
from tests.integration.query_gallery import (
    GHOST,
    Stack,
    connected,
    ids,
    refused,
    scores,
    search,
    start_process,
    text,
)

RECOVERY_S = 60


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with minio_server(tmp_path_factory.mktemp("objects")) as server:
        yield server


@pytest.fixture(scope="module")
def query(gallery: Stack, objects: S3Server) -> Iterator[QueryServiceStub]:
    """A query service whose objects are in a server of their own, and whose embedder is another's to stop."""
    settings = {
        "objects_url": "s3://toys",
        "s3_endpoint": f"http://{objects.endpoint}",
        "s3_access_key": objects.access_key,
        "s3_secret_key": objects.secret_key,
        "s3_create_bucket": "true",
    }
    asyncio.run(_copy(gallery.object_store(), open_object_store(ObjectSettings.model_validate(settings))))
    environment = gallery.environment | {f"SACCADE_{name.upper()}": value for name, value in settings.items()}
    with ExitStack() as held:
        _, address = held.enter_context(start_process("services.query", environment))
        yield held.enter_context(connected(address))


async def _copy(source: ObjectStore, target: ObjectStore) -> None:
    await target.check()
    for info in await source.list("", limit=1000):
        await target.put(info.key, await source.get(info.key))
    await source.close()
    await target.close()


def test_without_the_object_store_what_the_index_knows_is_found(query: QueryServiceStub, objects: S3Server) -> None:
    before = search(query, text("red"), top_k=5)
    assert not before.plan.degraded
    objects.kill()
    try:
        during = search(query, text("red"), top_k=6)
        # Nobody can say now that one of them is gone.
        assert [name for name in ids(during) if name != GHOST][:5] == ids(before)
        assert {name: scores(during)[name] for name in ids(before)} == scores(before)
        assert any(note.startswith("records") for note in during.plan.degraded)
        red = next(result.image for result in during.results if result.image.id == "red")
        assert (red.collection, red.width, {tag.name for tag in red.tags}) == ("toys", 64, {"red"})
        assert red.metadata["shelf"] == 0
        assert red.original_url.startswith(f"http://{objects.endpoint}/")
        assert any(result.matched_segments for result in during.results)
        assert wait_until(lambda: _notes(query)[0].startswith("collection"), timeout_s=RECOVERY_S)
        # What is nowhere but there is not made up.
        assert refused(query, pb.Part(region=pb.Region(image_id="red", points=[]))) is not None
    finally:
        objects.restart()
    assert wait_until(lambda: not _notes(query), timeout_s=RECOVERY_S)
    after = search(query, text("red"), top_k=5)
    assert (ids(after), scores(after)) == (ids(before), scores(before))


def _notes(query: QueryServiceStub) -> list[str]:
    return list(search(query, text("red"), top_k=1).plan.degraded)


def test_without_an_embedder_a_mixed_query_says_what_needs_it(gallery: Stack) -> None:
    settings = gallery.environment | {"SACCADE_EMBEDDER_ADDRESS": f"dns:///127.0.0.1:{free_port()}"}
    with start_process("services.query", settings) as (_, address), connected(address) as query:
        for _ in range(8):
            with pytest.raises(grpc.RpcError) as caught:
                search(query, pb.Part(image_id="red"), text("a ball", 0.5))
            error = api_error(caught.value)
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "EMBEDDER_UNAVAILABLE")
            assert "the embedder does not answer" in error.message
            assert "parts[1].text" in error.message
            assert error.retry_after_s > 0
        assert "asked again" in error.message
        # Nothing of these needs it, whatever it has been found to be.
        assert search(query, pb.Part(image_id="red")).results
        assert not search(query, pb.Part(image_id="red")).plan.degraded


def test_without_segments_whole_images_answer(query: QueryServiceStub, gallery: Stack) -> None:
    # By whole images and tags.
    whole = search(query, text("red"), weights=pb.Weights(segment=0.0))
    both = search(query, text("red"))
    assert scores(both) != scores(whole)
    client = MilvusClient(gallery.milvus_uri)
    client.drop_alias("toys_segments")
    client.drop_collection("toys_G1_segments")
    client.close()

    def degraded() -> bool:
        return any(note.startswith("segments: ") for note in search(query, text("red")).plan.degraded)

    # How many there are is known for some seconds.
    assert wait_until(degraded, timeout_s=RECOVERY_S)
    answer = search(query, text("red"))
    assert (ids(answer), scores(answer)) == (ids(whole), scores(whole))
    assert not any(result.matched_segments for result in answer.results)
    # Where only segments would be an answer there is none.
    assert refused(query, text("red"), mode=pb.SEARCH_MODE_SEGMENT)[2] == "INDEX_MISSING"
    stored = pb.Part(region=pb.Region(image_id="red-corner", segment_index=0))
    assert refused(query, stored)[2] == "INDEX_MISSING"
    # Whole images are searched as ever.
    answer = search(query, text("red"), weights=pb.Weights(segment=0.0))
    assert (scores(answer), list(answer.plan.degraded)) == (scores(whole), [])
