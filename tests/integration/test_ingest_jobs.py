"""Jobs of a real ingest process: the next generation of an index, the way back, and tags chosen anew."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest
from PIL import Image

from saccade.ingest.v1 import ingest_service_pb2 as pb
from saccade.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from services.common.errors import NotFound
from services.common.objects import ObjectMissing
from services.common.records import CollectionRecord, TuningRecord, collection_key, tuning_key
from services.common.settings import VectorSettings
from services.common.vectors import Consistency, Generation, VectorStore
from tests.engines import wait_until
from tests.integration.ingest_support import (
    COLOURS,
    DURABLE,
    SEGMENTED,
    Stack,
    T,
    change,
    counts,
    create,
    get,
    listed,
    make_collection,
    picture,
    put,
    read,
    refused,
    tagged,
)

_T = TypeVar("_T")
JOB_T = 60
"""Longest that a job may take, in seconds."""
RUNNING, SUCCEEDED = pb.Job.STATE_RUNNING, pb.Job.STATE_SUCCEEDED
FAILED, CANCELLED = pb.Job.STATE_FAILED, pb.Job.STATE_CANCELLED


EMBEDDER = {"SACCADE_MODEL": "toy,demo"}
INGEST = {
    "SACCADE_INGEST_RETIRE_S": "0.5",
    "SACCADE_INGEST_GROWTH_CHECK_S": "0.3",
    "SACCADE_INGEST_MEASURE_ROWS": "8",
}


@pytest.fixture
def collection(ingest: IngestServiceStub) -> str:
    """A collection with six images, taken apart."""
    name = make_collection(ingest)
    for i, ground in enumerate(list(COLOURS)[:6]):
        create(ingest, name, picture(ground, seed=i), id=f"i{i}", tags=["own"], wait_for=SEGMENTED)
    return name


def reindex(ingest: IngestServiceStub, collection: str, **fields: Any) -> pb.Job:
    request = pb.ReindexCollectionRequest(collection=collection, **fields)
    return ingest.ReindexCollection(request, timeout=T, wait_for_ready=True).job


def job_of(ingest: IngestServiceStub, job_id: str) -> pb.Job:
    return ingest.GetJob(pb.GetJobRequest(id=job_id), timeout=T, wait_for_ready=True).job


def ended(ingest: IngestServiceStub, job: pb.Job) -> pb.Job:
    """The job when it has ended."""
    assert wait_until(lambda: job_of(ingest, job.id).state != RUNNING, timeout_s=JOB_T), job_of(ingest, job.id)
    return job_of(ingest, job.id)


def collection_of(ingest: IngestServiceStub, name: str) -> pb.Collection:
    return ingest.GetCollection(pb.GetCollectionRequest(name=name), timeout=T).collection


def record_of(stack: Stack, name: str) -> CollectionRecord:
    return CollectionRecord.model_validate_json(read(stack, collection_key(name)))


def rows_of(stack: Stack, record: CollectionRecord) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Images of a generation with their tags, and how many segments each has."""

    async def look(vectors: VectorStore) -> tuple[dict[str, list[str]], dict[str, int]]:
        generation = Generation.of(record)
        ids = await vectors.list_image_ids(generation, where="", limit=1_000)
        images = await vectors.get_images(generation, ids, consistency=Consistency.STRONG)
        assert all(len(row.vector) == record.dimension for row in images.values())
        segments = {i: len(await vectors.get_segments(generation, i, consistency=Consistency.STRONG)) for i in ids}
        return {i: list(row.tags) for i, row in images.items()}, segments

    return index(stack, look)


def exists(stack: Stack, record: CollectionRecord) -> bool:
    """Whether the index has this generation."""

    async def look(vectors: VectorStore) -> bool:
        try:
            await vectors.count_images(Generation.of(record))
        except NotFound:
            return False
        return True

    return index(stack, look)


def index(stack: Stack, look: Callable[[VectorStore], Awaitable[_T]]) -> _T:
    """Look at the index behind the service's back."""

    async def run() -> _T:
        vectors = VectorStore(VectorSettings(milvus_uri=stack.milvus.uri))
        try:
            return await look(vectors)
        finally:
            await vectors.close()

    return asyncio.run(run())


def test_another_model_and_back(stack: Stack, ingest: IngestServiceStub, collection: str) -> None:
    before = get(ingest, collection, "i0", include_masks=True)
    first = record_of(stack, collection)
    job = ended(ingest, reindex(ingest, collection, model="demo"))
    assert (job.state, job.kind, job.done, job.failed) == (SUCCEEDED, "reindex", 6, 0), job
    assert "generation 2 is live" in job.detail
    found = collection_of(ingest, collection)
    assert (found.model, found.generation, found.previous_generation, found.job) == ("demo", 2, 1, "")
    assert (found.image_count, found.pending_count) == (6, 0)
    record = record_of(stack, collection)
    assert record.dimension != first.dimension
    images, segments = rows_of(stack, record)
    assert images == (rows_of(stack, first))[0]
    # Segments, masks and tags stay as they were: no segmenter ran.
    after = get(ingest, collection, "i0", include_masks=True)
    assert [s.mask for s in after.segments] == [s.mask for s in before.segments]
    assert after.tags == before.tags
    assert segments["i0"] == len(before.segments)

    # What is made, changed and removed under the new model is right under the old one, too.
    create(ingest, collection, picture("pink", seed=20), id="new", wait_for=SEGMENTED)
    create(ingest, collection, picture("purple", seed=21), id="i1", replace=True, wait_for=SEGMENTED)
    change(ingest, collection, "i2", tags=[{"name": "changed"}])
    ingest.DeleteImage(pb.DeleteImageRequest(collection=collection, id="i3"), timeout=T)
    back = ended(ingest, reindex(ingest, collection, rollback=True))
    assert back.state == SUCCEEDED, back
    found = collection_of(ingest, collection)
    assert (found.model, found.generation, found.previous_generation) == ("toy", 1, 2)
    images, segments = rows_of(stack, record_of(stack, collection))
    assert sorted(images) == ["i0", "i1", "i2", "i4", "i5", "new"]
    assert "changed" in images["i2"]
    assert segments["new"] == len(get(ingest, collection, "new").segments)
    assert listed(ingest, collection, filter=tagged("changed")) == ["i2"]

    # The next one is never given a number that was used, and takes the room of the one before.
    third = ended(ingest, reindex(ingest, collection, index=pb.IndexSpec(nlist=16)))
    assert third.state == SUCCEEDED, third
    assert "of 6 sampled searches keep their top result" in third.detail
    found = collection_of(ingest, collection)
    assert (found.generation, found.previous_generation, found.index.nlist) == (3, 1, 16)
    assert not exists(stack, record)
    assert rows_of(stack, record_of(stack, collection)) == (images, segments)


def test_one_job_at_a_time_and_bad_questions(ingest: IngestServiceStub, collection: str) -> None:
    job = reindex(ingest, collection, model="demo")
    error = refused(ingest.ReindexCollection, pb.ReindexCollectionRequest(collection=collection))
    assert error.code == grpc.StatusCode.FAILED_PRECONDITION
    assert job.id in error.message
    error = refused(ingest.RetagCollection, pb.RetagCollectionRequest(collection=collection))
    assert error.reason == "JOB_RUNNING"
    ended(ingest, job)

    request = pb.ReindexCollectionRequest(collection=collection, model="no-such-model")
    error = refused(ingest.ReindexCollection, request)
    assert (error.code, error.fields[0][0]) == (grpc.StatusCode.NOT_FOUND, "model")
    for fields, field in (
        ({"min_agreement": 1.5}, "min_agreement"),
        ({"min_agreement": float("nan")}, "min_agreement"),
        ({"rollback": True, "model": "toy"}, "rollback"),
        ({"index": pb.IndexSpec(target_recall=2)}, "index.target_recall"),
    ):
        error = refused(ingest.ReindexCollection, pb.ReindexCollectionRequest(collection=collection, **fields))
        assert (error.code, error.fields[0][0]) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    error = refused(ingest.ReindexCollection, pb.ReindexCollectionRequest(collection="nowhere"))
    assert error.code == grpc.StatusCode.NOT_FOUND
    empty = make_collection(ingest)
    error = refused(ingest.ReindexCollection, pb.ReindexCollectionRequest(collection=empty, rollback=True))
    assert error.reason == "NO_PREVIOUS_GENERATION"
    error = refused(ingest.GetJob, pb.GetJobRequest(id="0" * 18))
    assert error.code == grpc.StatusCode.NOT_FOUND
    error = refused(ingest.GetJob, pb.GetJobRequest(id="../x"))
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT


def test_jobs_are_listed_newest_first(ingest: IngestServiceStub) -> None:
    name = make_collection(ingest)
    made = [ended(ingest, reindex(ingest, name)).id for _ in range(3)]
    page = ingest.ListJobs(pb.ListJobsRequest(collection=name, page_size=2), timeout=T)
    assert [job.id for job in page.jobs] == made[:0:-1]
    rest = ingest.ListJobs(pb.ListJobsRequest(collection=name, page_size=2, page_token=page.next_page_token), timeout=T)
    assert [job.id for job in rest.jobs] == made[:1]
    assert rest.next_page_token == ""
    assert next(iter(ingest.ListJobs(pb.ListJobsRequest(page_size=1), timeout=T).jobs)).id == made[-1]
    # A job that has ended stays as it is.
    assert ingest.CancelJob(pb.CancelJobRequest(id=made[0]), timeout=T).job.state == SUCCEEDED


def test_a_cancelled_job_takes_away_what_it_built(stack: Stack, ingest: IngestServiceStub, collection: str) -> None:
    ended(ingest, reindex(ingest, collection))
    live = record_of(stack, collection)
    job = reindex(ingest, collection, model="demo")
    # At once: it waits for the searches of generation 1, or is in the middle.
    stopped = ingest.CancelJob(pb.CancelJobRequest(id=job.id), timeout=T).job
    assert stopped.state == CANCELLED, stopped
    assert stopped.end_time.seconds
    found = collection_of(ingest, collection)
    assert (found.generation, found.model) == (2, "toy")
    assert counts(ingest, collection)[0] == 6
    third = live.model_copy(update={"generation": 3})
    assert not exists(stack, third)
    assert exists(stack, live)
    # The next one goes well.
    assert ended(ingest, reindex(ingest, collection, model="demo")).state == SUCCEEDED


def test_images_that_are_not_finished_come_along(ingest: IngestServiceStub) -> None:
    """Some have no vector yet, some no segments; the next generation gets them all."""
    name = make_collection(ingest)
    for i in range(12):
        create(ingest, name, picture(list(COLOURS)[i % 8], seed=i), id=f"i{i:02}", wait_for=DURABLE)
    job = ended(ingest, reindex(ingest, name, model="demo"))
    assert job.state == SUCCEEDED, job
    assert wait_until(lambda: counts(ingest, name)[2] == 0, timeout_s=JOB_T)
    found = collection_of(ingest, name)
    assert (found.model, found.image_count) == ("demo", 12)
    assert found.segment_count == sum(len(get(ingest, name, f"i{i:02}").segments) for i in range(12))


def patchwork(seed: int) -> bytes:
    """A PNG of squares of random colours."""
    colours = np.array([*COLOURS.values()], dtype=np.uint8)
    squares = colours[np.random.default_rng(seed).integers(len(colours), size=(4, 4))]
    out = io.BytesIO()
    Image.fromarray(squares).resize((32, 32), Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()


def test_too_little_agreement_fails_the_job(stack: Stack, ingest: IngestServiceStub) -> None:
    """One list of many is searched: some have their neighbours on the other side of its border."""
    name = make_collection(ingest)
    # For fewer milvus-lite builds no lists.
    for i in range(320):
        create(ingest, name, patchwork(i), id=f"i{i:03}", wait_for=DURABLE)
    assert wait_until(lambda: counts(ingest, name)[0] == 320, timeout_s=JOB_T)
    poor = pb.IndexSpec(nlist=32, nprobe=1)
    job = ended(ingest, reindex(ingest, name, index=poor, min_agreement=1))
    assert job.state == FAILED, job
    assert "generation 1 stays" in job.failure
    assert (collection_of(ingest, name).generation, record_of(stack, name).building) == (1, None)
    assert not exists(stack, record_of(stack, name).model_copy(update={"generation": 2}))
    # Nobody has to ask for so much.
    assert ended(ingest, reindex(ingest, name, index=poor, min_agreement=0.01)).state == SUCCEEDED


def test_a_collection_that_has_grown_is_built_and_measured_anew(stack: Stack, ingest: IngestServiceStub) -> None:
    name = make_collection(ingest)
    for i in range(8):
        create(ingest, name, picture(seed=i), id=f"i{i}", wait_for=DURABLE)
    assert wait_until(lambda: measured(stack, name, 1) >= 8, timeout_s=JOB_T)
    before = measured(stack, name, 1)
    for i in range(8, 8 + before):
        create(ingest, name, picture(seed=i), id=f"i{i}", wait_for=DURABLE)
    assert wait_until(lambda: measured(stack, name, 1) >= 2 * before, timeout_s=JOB_T)

    # As if it had been built for few rows.
    record = record_of(stack, name).model_copy(update={"built_nlist": 16})
    put(stack, collection_key(name), record.to_bytes())
    assert wait_until(lambda: collection_of(ingest, name).generation == 2, timeout_s=JOB_T)
    assert record_of(stack, name).built_nlist == 128
    [job] = ingest.ListJobs(pb.ListJobsRequest(collection=name), timeout=T).jobs
    assert ended(ingest, job).state == SUCCEEDED
    # One is enough.
    looks = len(ingest.ListJobs(pb.ListJobsRequest(collection=name), timeout=T).jobs)
    assert looks == 1


def measured(stack: Stack, name: str, generation: int) -> int:
    """Images that the generation had when it was measured."""
    try:
        return TuningRecord.model_validate_json(read(stack, tuning_key(name, generation))).image_rows
    except ObjectMissing:
        return 0


def test_tags_are_chosen_anew(stack: Stack, ingest: IngestServiceStub) -> None:
    colours = [*COLOURS]
    words = pb.Vocabulary(name="colours", entries=[pb.Vocabulary.Entry(name=c, category="colour") for c in colours])
    ingest.PutVocabulary(pb.PutVocabularyRequest(vocabulary=words), timeout=T)
    name = make_collection(ingest)
    for i, ground in enumerate(colours[:4]):
        create(ingest, name, picture(ground, seed=i), id=f"i{i}", tags=["own"], wait_for=SEGMENTED)
    before = get(ingest, name, "i0", include_masks=True)
    job = ingest.RetagCollection(pb.RetagCollectionRequest(collection=name, vocabulary="colours"), timeout=T).job
    # An update meanwhile is not lost, and an image that comes meanwhile gets the new words.
    change(ingest, name, "i1", tags=[{"name": "mine"}])
    create(ingest, name, picture("purple", seed=9), id="late", wait_for=SEGMENTED)
    job = ended(ingest, job)
    assert job.state == SUCCEEDED, job
    assert collection_of(ingest, name).vocabulary == "colours"
    after = get(ingest, name, "i0", include_masks=True)
    assert [(s.box, s.mask) for s in after.segments] == [(s.box, s.mask) for s in before.segments]
    assert after.tags[0].name == "own"
    for image_id in ("i0", "i1", "i2", "i3", "late"):
        image = get(ingest, name, image_id)
        model = [tag for tag in image.tags if tag.name not in {"own", "mine"}]
        assert model
        assert {tag.name for tag in model} <= set(colours)
        assert {tag.category for tag in model} == {"colour"}
        assert {tag.name for segment in image.segments for tag in segment.tags} <= set(colours)
        assert listed(ingest, name, filter=tagged(model[0].name)).count(image_id) == 1
    assert get(ingest, name, "i1").tags[0].name == "mine"
    tags, _ = rows_of(stack, record_of(stack, name))
    assert tags["i0"][0] == "own"

    # The same words changed.
    fewer = pb.Vocabulary(name="colours", entries=words.entries[:2])
    ingest.PutVocabulary(pb.PutVocabularyRequest(vocabulary=fewer), timeout=T)
    job = ended(ingest, ingest.RetagCollection(pb.RetagCollectionRequest(collection=name), timeout=T).job)
    assert job.state == SUCCEEDED, job
    for image_id in ("i0", "late"):
        assert {tag.name for tag in get(ingest, name, image_id).tags} <= {"own", *colours[:2]}
    error = refused(ingest.RetagCollection, pb.RetagCollectionRequest(collection=name, vocabulary="none_such"))
    assert (error.code, error.fields[0][0]) == (grpc.StatusCode.NOT_FOUND, "vocabulary")


def test_a_collection_that_is_deleted_ends_its_job(ingest: IngestServiceStub, collection: str) -> None:
    job = reindex(ingest, collection, model="demo")
    ingest.DeleteCollection(pb.DeleteCollectionRequest(name=collection, force=True), timeout=T)
    job = ended(ingest, job)
    assert job.state in {CANCELLED, SUCCEEDED, FAILED}, job
    error = refused(ingest.GetCollection, pb.GetCollectionRequest(name=collection))
    assert error.code == grpc.StatusCode.NOT_FOUND
    # The name is free, and nothing of the old one is there.
    make_collection(ingest, name=collection)
    assert counts(ingest, collection) == (0, 0, 0)
