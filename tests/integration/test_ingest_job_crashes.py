"""Jobs whose process was killed at its worst moments: what is found afterwards is put together by hand."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from pymilvus import MilvusClient

from saccade.ingest.v1 import ingest_service_pb2 as pb
from saccade.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from services.common.objects import ObjectMissing
from services.common.records import CollectionRecord, collection_key, dirty_prefix
from services.common.settings import VectorSettings
from services.common.vectors import Generation, VectorStore
from services.ingest.jobs.record import JobRecord, JobState, Lease, cancel_key, job_key, lease_key
from tests.engines import MilvusServer, free_port, milvus_lite, wait_until
from tests.integration.ingest_support import (
    COLOURS,
    SEGMENTED,
    Stack,
    T,
    counts,
    create,
    embedder_process,
    ended,
    ingest_process,
    listed,
    make_collection,
    picture,
    put,
    read,
    tagged,
)

_T = TypeVar("_T")
JOB_T = 60
NAME = "mine"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MilvusServer, int]]:
    port = free_port()
    with milvus_lite(tmp_path_factory.mktemp("milvus")) as milvus, embedder_process(port):
        yield milvus, port


@pytest.fixture
def stack(engines: tuple[MilvusServer, int], tmp_path: Path) -> Stack:
    return Stack(*engines, tmp_path / "objects", {"SACCADE_INGEST_RETIRE_S": "0.1"})


def reindexed(stack: Stack) -> str:
    """A collection of four images that a job took to generation 2; the job's id."""
    with ingest_process(stack) as ingest:
        make_collection(ingest.stub, name=NAME)
        for i, ground in enumerate([*COLOURS][:4]):
            create(ingest.stub, NAME, picture(ground, seed=i), id=f"i{i}", tags=["own"], wait_for=SEGMENTED)
        request = pb.ReindexCollectionRequest(collection=NAME)
        job_id = ingest.stub.ReindexCollection(request, timeout=T).job.id
        assert ended(ingest.stub, job_id).state == pb.Job.STATE_SUCCEEDED
    return job_id


def record_of(stack: Stack) -> CollectionRecord:
    return CollectionRecord.model_validate_json(read(stack, collection_key(NAME)))


def revive(stack: Stack, job_id: str, record: CollectionRecord) -> None:
    """Let the job be at work on the collection, in a process that is dead."""
    job = JobRecord.model_validate_json(read(stack, job_key(job_id)))
    put(stack, job_key(job_id), job.model_copy(update={"state": JobState.RUNNING, "ended_at_ms": 0}).to_bytes())
    put(stack, lease_key(job_id), Lease(owner="dead").to_bytes())
    put(stack, collection_key(NAME), record.model_copy(update={"job": job_id}).to_bytes())


def index(stack: Stack, look: Callable[[VectorStore], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        vectors = VectorStore(VectorSettings(milvus_uri=stack.milvus.uri))
        try:
            return await look(vectors)
        finally:
            await vectors.close()

    return asyncio.run(run())


def aliased(stack: Stack) -> str:
    client = MilvusClient(stack.milvus.uri)
    try:
        return str(client.describe_alias(f"{NAME}_images")["collection_name"])
    finally:
        client.close()


def is_there(stack: Stack, key: str) -> bool:
    try:
        read(stack, key)
    except ObjectMissing:
        return False
    return True


def clean_up(ingest: IngestServiceStub) -> None:
    ingest.DeleteCollection(pb.DeleteCollectionRequest(name=NAME, force=True), timeout=T)


def test_between_the_record_and_the_aliases(stack: Stack) -> None:
    """The record names generation 2; aliases, a late mark and a row that is missing are put right."""
    job_id = reindexed(stack)
    record = record_of(stack)
    assert record.previous is not None
    first = Generation.of(record.under(record.previous))
    index(stack, lambda vectors: vectors.activate(first))
    assert "G1" in aliased(stack)
    index(stack, lambda vectors: vectors.delete_images(Generation.of(record), ["i1"]))
    for image_id in ("i2", "gone"):
        put(stack, f"{dirty_prefix(NAME)}0000000000001.abcd.1.{image_id}", b"")
    revive(stack, job_id, record)
    with ingest_process(stack) as ingest:
        job = ended(ingest.stub, job_id)
        assert job.state == pb.Job.STATE_SUCCEEDED, job
        assert "1 images are indexed anew" in job.detail
        assert wait_until(lambda: counts(ingest.stub, NAME)[2] == 0, timeout_s=JOB_T)
        assert "G2" in aliased(stack)
        assert sorted(listed(ingest.stub, NAME, filter=tagged("own"))) == ["i0", "i1", "i2", "i3"]
        found = ingest.stub.GetCollection(pb.GetCollectionRequest(name=NAME), timeout=T).collection
        assert (found.generation, found.previous_generation, found.image_count, found.job) == (2, 1, 4, "")
        assert not is_there(stack, lease_key(job_id))
        assert record_of(stack).generation == 2
        clean_up(ingest.stub)


def test_between_a_cancellation_and_its_end(stack: Stack) -> None:
    job_id = reindexed(stack)
    record = record_of(stack)
    assert record.previous is not None
    # As if it were still building generation 2.
    building = record.under(record.previous).model_copy(update={"previous": None, "building": record.live})
    revive(stack, job_id, building)
    put(stack, cancel_key(job_id), b"")
    with ingest_process(stack) as ingest:
        assert ended(ingest.stub, job_id).state == pb.Job.STATE_CANCELLED
        assert wait_until(lambda: record_of(stack).job == "", timeout_s=T)
        assert (record_of(stack).generation, record_of(stack).building) == (1, None)
        assert sorted(listed(ingest.stub, NAME, filter=tagged("own"))) == ["i0", "i1", "i2", "i3"]
        names = MilvusClient(stack.milvus.uri).list_collections()
        assert not [name for name in names if "G2" in name]
        clean_up(ingest.stub)


def test_marks_that_nobody_drained_are_seen_to_without_a_job(stack: Stack) -> None:
    """One was left before generation 2 went live: its image is done again. The other: of a build given up."""
    reindexed(stack)
    record = record_of(stack)
    put(stack, f"{dirty_prefix(NAME)}0000000000001.abcd.1.i2", b"")
    put(stack, f"{dirty_prefix(NAME)}0000000000002.abcd.2.i3", b"")
    index(stack, lambda vectors: vectors.delete_images(Generation.of(record), ["i2", "i3"]))
    with ingest_process(stack) as ingest:
        assert wait_until(
            lambda: listed(ingest.stub, NAME, filter=tagged("own")) == ["i0", "i1", "i2"], timeout_s=JOB_T
        )
        assert wait_until(lambda: counts(ingest.stub, NAME)[2] == 0, timeout_s=JOB_T)
        assert not is_there(stack, f"{dirty_prefix(NAME)}0000000000001.abcd.1.i2")
        assert not is_there(stack, f"{dirty_prefix(NAME)}0000000000002.abcd.2.i3")
        clean_up(ingest.stub)
