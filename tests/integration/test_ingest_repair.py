"""Repairs of a real ingest process: whatever is damaged behind its back is found, counted by kind, and mended."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest

from saccade.ingest.v1 import ingest_service_pb2 as pb
from saccade.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from services.common.records import (
    CollectionRecord,
    GenerationRecord,
    ImageRecord,
    ImageState,
    collection_key,
    image_key,
    original_key,
    pending_key,
    record_key,
    segments_key,
    thumbnail_key,
)
from services.common.settings import VectorSettings
from services.common.vectors import Generation, ImageRow, VectorStore
from services.ingest.markers import Marker, Op
from tests.engines import wait_until
from tests.integration.ingest_support import (
    COLOURS,
    DURABLE,
    FAILED,
    SEGMENTED,
    Ingest,
    Stack,
    T,
    counts,
    create,
    ended,
    get,
    listed,
    make_collection,
    picture,
    put,
    read,
    refused,
    tagged,
    touch,
)

_T = TypeVar("_T")
RECOVERY_S = 60
INGEST = {"SACCADE_INGEST_REPAIR_GRACE_S": "0"}
IDS = [f"i{i}" for i in range(6)]


@pytest.fixture(scope="module")
def collection(service: Ingest) -> str:
    """Six images, taken apart; each test leaves them whole."""
    name = make_collection(service.stub, name="mended")
    for i, (image_id, ground) in enumerate(zip(IDS, COLOURS, strict=False)):
        create(service.stub, name, picture(ground, seed=i), id=image_id, tags=["own"], wait_for=SEGMENTED)
    assert wait_until(lambda: counts(service.stub, name)[2] == 0, timeout_s=RECOVERY_S)
    return name


def repaired(ingest: IngestServiceStub, collection: str, *, dry_run: bool = False) -> pb.Job:
    request = pb.RepairCollectionRequest(collection=collection, dry_run=dry_run)
    job = ended(ingest, ingest.RepairCollection(request, timeout=T, wait_for_ready=True).job.id)
    assert job.state == pb.Job.STATE_SUCCEEDED, job
    return job


def found(job: pb.Job) -> dict[str, int]:
    return {finding.kind: finding.found for finding in job.findings}


def mended(job: pb.Job) -> dict[str, int]:
    return {finding.kind: finding.repaired for finding in job.findings}


def index(stack: Stack, do: Callable[[VectorStore], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        vectors = VectorStore(VectorSettings(milvus_uri=stack.milvus.uri))
        try:
            return await do(vectors)
        finally:
            await vectors.close()

    return asyncio.run(run())


def live(stack: Stack, collection: str) -> Generation:
    return Generation.of(record_of(stack, collection))


def record_of(stack: Stack, collection: str) -> CollectionRecord:
    return CollectionRecord.model_validate_json(read(stack, collection_key(collection)))


def remove(stack: Stack, key: str) -> None:
    touch(stack, lambda objects: objects.delete(key))


def is_whole(ingest: IngestServiceStub, collection: str) -> bool:
    images, segments, pending = counts(ingest, collection)
    return pending == 0 and images == len(IDS) and segments > images


def test_what_is_whole_has_no_difference(ingest: IngestServiceStub, collection: str) -> None:
    job = repaired(ingest, collection)
    assert (found(job), job.done, job.total, job.failed) == ({}, 6, 6, 0)
    assert "no difference" in job.detail


def test_damage_of_every_kind_is_counted_and_mended(stack: Stack, ingest: IngestServiceStub, collection: str) -> None:
    before = {image_id: get(ingest, collection, image_id) for image_id in IDS}
    generation = live(stack, collection)
    remove(stack, record_key(collection, "i0"))
    put(stack, record_key(collection, "i1"), b"torn")
    put(stack, segments_key(collection, "i2"), b"[")
    remove(stack, thumbnail_key(collection, "i3"))
    unfinished = ImageRecord.model_validate_json(read(stack, record_key(collection, "i5")))
    durable = unfinished.model_copy(update={"state": ImageState.DURABLE})
    put(stack, record_key(collection, "i5"), durable.to_bytes())
    put(stack, f"{image_key(collection, 'stray')}thumbnail.webp", b"left")
    put(
        stack,
        pending_key(collection, "nothing"),
        Marker(lease_owner="dead", lease_until_ms=1).model_dump_json().encode(),
    )
    (stack.objects / ".drafts").mkdir(exist_ok=True)

    async def harm(vectors: VectorStore) -> None:
        rows = await vectors.get_images(generation, ["i4"])
        changed = ImageRow(
            **{name: getattr(rows["i4"], name) for name in ImageRow.__slots__} | {"tags": {"other": 1.0}}
        )
        await vectors.upsert_images(generation, [changed])
        segments = await vectors.get_segments(generation, "i4")
        await vectors.delete_segments(generation, "i3", [0])
        stranger = segments[0]
        await vectors.upsert_segments(generation, [as_of(stranger, "i4", 40), as_of(stranger, "ghost", 1)])
        await vectors.upsert_images(
            generation,
            [ImageRow(**{name: getattr(rows["i4"], name) for name in ImageRow.__slots__} | {"id": "phantom"})],
        )

    index(stack, harm)
    wanted = {
        "RECORD_MISSING": 1,
        "RECORD_UNREADABLE": 1,
        "SEGMENTS_UNREADABLE": 1,
        "THUMBNAIL_MISSING": 1,
        "UNFINISHED": 1,
        "OBJECTS_STRAY": 1,
        "ROWS_DIFFER": 1,
        "ROWS_MISSING": 1,
        "ROWS_ORPHANED": 3,
    }
    report = repaired(ingest, collection, dry_run=True)
    counted = found(report)
    # The reconciler may have been faster with the marker.
    counted.pop("MARKER_WITHOUT_NEED", None)
    assert counted == wanted
    assert sum(mended(report).values()) == 0
    assert report.failed == sum(found(report).values())
    assert ("THUMBNAIL_MISSING", "i3") in {(error.reason, error.field) for error in report.errors}

    job = repaired(ingest, collection)
    counted = found(job)
    counted.pop("MARKER_WITHOUT_NEED", None)
    assert counted == wanted
    assert (mended(job), job.failed) == (found(job), 0)
    assert wait_until(lambda: is_whole(ingest, collection), timeout_s=RECOVERY_S)
    assert found(repaired(ingest, collection)) == {}
    for image_id in IDS:
        image = get(ingest, collection, image_id)
        assert (image.state, image.metadata) == (SEGMENTED, before[image_id].metadata)
        # Also of those whose record was lost: the index knew them.
        assert [tag for tag in image.tags if tag.name == "own"]
        assert len(image.segments) == len(before[image_id].segments)
    assert sorted(listed(ingest, collection, filter=tagged("own"))) == IDS


def as_of(row: Any, image_id: str, segment: int) -> Any:
    return type(row)(**{name: getattr(row, name) for name in row.__slots__} | {"image_id": image_id, "index": segment})


def test_an_image_whose_bytes_are_lost_is_set_aside_until_they_come_again(
    stack: Stack, ingest: IngestServiceStub, collection: str
) -> None:
    data = read(stack, original_key(collection, "i0"))
    remove(stack, original_key(collection, "i0"))
    assert mended(repaired(ingest, collection)) == {"ORIGINAL_MISSING": 1}
    image = get(ingest, collection, "i0")
    assert (image.state, "store the image again" in image.failure) == (FAILED, True)
    assert "i0" not in listed(ingest, collection, filter=tagged("own"))
    assert found(repaired(ingest, collection)) == {}
    # From a backup; and, another time, by storing it again.
    put(stack, original_key(collection, "i0"), data)
    repaired(ingest, collection)
    assert wait_until(lambda: is_whole(ingest, collection), timeout_s=RECOVERY_S)
    remove(stack, original_key(collection, "i0"))
    assert create(ingest, collection, data, id="i0", wait_for=SEGMENTED).existed
    assert wait_until(lambda: is_whole(ingest, collection), timeout_s=RECOVERY_S)
    assert found(repaired(ingest, collection)) == {}


def test_generations_that_the_record_does_not_name(stack: Stack, ingest: IngestServiceStub, collection: str) -> None:
    record = record_of(stack, collection)
    abandoned = record.live.model_copy(update={"number": 7})
    missing = GenerationRecord.model_validate(record.live.model_dump() | {"number": 9})

    async def harm(vectors: VectorStore) -> None:
        await vectors.create_generation(Generation.of(record.under(abandoned)))
        await vectors.deactivate(collection)

    index(stack, harm)
    put(
        stack,
        collection_key(collection),
        record.model_copy(update={"building": abandoned, "previous": missing}).to_bytes(),
    )
    wanted = {"ALIAS_WRONG": 1, "GENERATION_ABANDONED": 1, "PREVIOUS_MISSING": 1}
    assert mended(repaired(ingest, collection)) == wanted
    assert found(repaired(ingest, collection)) == {}
    survey = index(stack, lambda vectors: vectors.survey(Generation.of(record)))
    assert (survey.active, survey.numbers) == (True, frozenset({record.generation}))


def test_an_index_of_another_model_is_made_anew(stack: Stack, ingest: IngestServiceStub, collection: str) -> None:
    record = record_of(stack, collection)

    async def harm(vectors: VectorStore) -> np.ndarray[Any, Any]:
        vector = (await vectors.get_image_vectors(Generation.of(record), ["i1"]))["i1"]
        await vectors.deactivate(collection)
        await vectors.drop_generation(Generation.of(record))
        other = record.model_copy(update={"fingerprint": "f" * 16})
        await vectors.create_generation(Generation.of(other))
        return vector

    before = index(stack, harm)
    assert mended(repaired(ingest, collection)) == {"INDEX_OF_OTHER_MODEL": 1, "ROWS_MISSING": 6}
    assert is_whole(ingest, collection)
    after = index(stack, lambda vectors: vectors.get_image_vectors(Generation.of(record), ["i1"]))["i1"]
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert found(repaired(ingest, collection)) == {}


def test_tombstones_are_gone_on_with(stack: Stack, ingest: IngestServiceStub) -> None:
    """A deletion whose process died; the reconciler and the repair may both find it."""
    name = make_collection(ingest)
    create(ingest, name, picture(), id="a", wait_for=SEGMENTED)
    put(
        stack,
        pending_key(name, "a"),
        Marker(op=Op.DELETE, lease_owner="dead", lease_until_ms=1).model_dump_json().encode(),
    )
    repaired(ingest, name)
    assert wait_until(lambda: counts(ingest, name) == (0, 0, 0), timeout_s=RECOVERY_S)
    assert found(repaired(ingest, name)) == {}


def test_nothing_is_found_while_images_come_and_go(ingest: IngestServiceStub) -> None:
    name = make_collection(ingest)

    def requests() -> Iterator[pb.StreamImagesRequest]:
        for i in range(60):
            image = pb.NewImage(id=f"s{i % 20}", data=picture(seed=i))
            one = pb.CreateImageRequest(collection=name, image=image, wait_for=DURABLE, replace=True)
            yield pb.StreamImagesRequest(key=str(i), create=one)

    results = ingest.StreamImages(requests(), timeout=60, wait_for_ready=True)
    for i, result in enumerate(results):
        assert result.HasField("created"), result
        if i % 15 == 0:
            assert found(repaired(ingest, name, dry_run=True)) == {}
    assert wait_until(lambda: counts(ingest, name)[2] == 0, timeout_s=RECOVERY_S)
    assert found(repaired(ingest, name)) == {}


def test_a_collection_that_is_not_there_is_not_repaired(ingest: IngestServiceStub) -> None:
    error = refused(ingest.RepairCollection, pb.RepairCollectionRequest(collection="nowhere"))
    assert error.reason == "COLLECTION_NOT_FOUND"
