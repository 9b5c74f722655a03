"""What callers are told, and what the index holds, when something is away or refuses: real processes.

The embedder here has no segmenter, so that images are done when they are searchable, and refuses large images.
"""

import signal
import threading

import grpc

from saccade.common.v1 import types_pb2
from saccade.errors import ApiError
from saccade.ingest.v1 import ingest_service_pb2 as pb
from saccade.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from services.common.records import ImageRecord, ImageState, record_key
from tests.engines import Process, wait_until
from tests.integration.ingest_support import (
    DURABLE,
    FAILED,
    SEARCHABLE,
    SEGMENTED,
    Stack,
    T,
    change,
    counts,
    create,
    ended,
    get,
    listed,
    picture,
    put,
    read,
    refused,
    tagged,
)

RECOVERY_S = 60
EMBEDDER = {"SACCADE_SEGMENTER": "", "SACCADE_MAX_IMAGE_PIXELS": str(100 * 100)}
LARGE = picture("green", side_px=128)


def is_done(ingest: IngestServiceStub, collection: str) -> bool:
    return counts(ingest, collection)[2] == 0


def test_segments_that_nobody_makes_are_not_promised(ingest: IngestServiceStub, collection: str) -> None:
    request = pb.CreateImageRequest(
        collection=collection, image=pb.NewImage(id="a", data=picture()), wait_for=SEGMENTED
    )
    error = refused(ingest.CreateImage, request)
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_SEGMENTER")
    assert error.fields[0][0] == "wait_for"
    assert "the image is stored and searchable, but not segmented" in error.message
    assert "will be indexed" not in error.message
    assert counts(ingest, collection) == (1, 0, 0)
    assert get(ingest, collection, "a").state == SEARCHABLE


def test_what_the_embedder_refuses_is_not_found_by_what_it_replaced(ingest: IngestServiceStub, collection: str) -> None:
    create(ingest, collection, picture("red"), id="a")
    request = pb.CreateImageRequest(collection=collection, image=pb.NewImage(id="a", data=LARGE), replace=True)
    error = refused(ingest.CreateImage, request)
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "the image is stored, but can not be indexed" in error.message
    assert get(ingest, collection, "a").state == FAILED
    assert counts(ingest, collection) == (0, 0, 0)


def test_who_waits_for_what_another_caller_takes_away_is_told(
    ingest: IngestServiceStub, collection: str, embedder: Process
) -> None:
    def wait_for_it() -> None:
        request = pb.CreateImageRequest(collection=collection, image=pb.NewImage(id="a", data=picture("red")))
        errors.append(refused(ingest.CreateImage, request))

    def replace() -> None:
        create(ingest, collection, picture("green"), id="a", replace=True, wait_for=DURABLE)

    def remove() -> None:
        ingest.DeleteImage(pb.DeleteImageRequest(collection=collection, id="a", allow_missing=True), timeout=T)

    errors: list[ApiError] = []
    embedder.signal(signal.SIGSTOP)
    try:
        for take_away in (replace, remove):
            waiting = threading.Thread(target=wait_for_it)
            waiting.start()
            assert wait_until(lambda: listed(ingest, collection) == ["a"], timeout_s=T)
            take_away()
            waiting.join()
            remove()
    finally:
        embedder.signal(signal.SIGCONT)
    assert [(error.code, error.reason) for error in errors] == [
        (grpc.StatusCode.ABORTED, "IMAGE_CHANGED"),
        (grpc.StatusCode.NOT_FOUND, "IMAGE_NOT_FOUND"),
    ]
    assert not any("will be indexed" in error.message for error in errors)


def test_changes_of_images_that_are_done_follow_an_outage(
    stack: Stack, ingest: IngestServiceStub, collection: str
) -> None:
    """Whether all that could be made of them is there, or they failed after they had become searchable."""
    for name in ("searchable", "failed"):
        create(ingest, collection, picture(), id=name, tags=["before"])
    assert wait_until(lambda: is_done(ingest, collection), timeout_s=T)
    record = ImageRecord.model_validate_json(read(stack, record_key(collection, "failed")))
    put(stack, record_key(collection, "failed"), record.model_copy(update={"state": ImageState.FAILED}).to_bytes())

    stack.milvus.process.kill()
    for name in ("searchable", "failed"):
        image = change(ingest, collection, name, ["tags"], tags=[types_pb2.Tag(name="after")])
        assert [tag.name for tag in image.tags] == ["after"]
    stack.milvus.process.start()

    def is_followed() -> bool:
        try:
            return listed(ingest, collection, filter=tagged("after")) == ["failed", "searchable"]
        except grpc.RpcError:
            return False

    assert wait_until(is_followed, timeout_s=RECOVERY_S)
    assert listed(ingest, collection, filter=tagged("before")) == []
    assert get(ingest, collection, "failed").state == FAILED
    assert get(ingest, collection, "searchable").state == SEARCHABLE
    assert wait_until(lambda: is_done(ingest, collection), timeout_s=T)


def test_what_comes_while_everything_else_is_away_is_caught_up_with(
    stack: Stack, ingest: IngestServiceStub, collection: str, embedder: Process
) -> None:
    """Neither Milvus nor the embedder is there; images are stored, changed, replaced and removed all the same."""
    for name in ("changed", "replaced", "removed"):
        create(ingest, collection, picture("red"), id=name)
    assert wait_until(lambda: is_done(ingest, collection), timeout_s=T)

    stack.milvus.process.kill()
    embedder.kill()
    for i in range(20):
        create(ingest, collection, picture("blue", seed=i), id=f"i{i:02}", wait_for=DURABLE, tags=["late"])
    change(ingest, collection, "changed", ["tags"], tags=[types_pb2.Tag(name="late")])
    create(ingest, collection, picture("green"), id="replaced", replace=True, wait_for=DURABLE, tags=["late"])
    error = refused(ingest.DeleteImage, pb.DeleteImageRequest(collection=collection, id="removed"))
    assert "goes on without a retry" in error.message
    assert get(ingest, collection, "i07").state == DURABLE
    stack.milvus.process.start()
    embedder.start()

    def is_over() -> bool:
        try:
            return counts(ingest, collection) == (22, 0, 0)
        except grpc.RpcError:
            return False

    assert wait_until(is_over, timeout_s=RECOVERY_S)
    assert len(listed(ingest, collection, filter=tagged("late"))) == 22
    job = ingest.RepairCollection(pb.RepairCollectionRequest(collection=collection, dry_run=True), timeout=T).job
    assert list(ended(ingest, job.id).findings) == []


def test_a_replacement_during_an_outage_is_acknowledged(
    stack: Stack, ingest: IngestServiceStub, collection: str
) -> None:
    for name in ("good", "large"):
        create(ingest, collection, picture("red"), id=name)
    assert wait_until(lambda: is_done(ingest, collection), timeout_s=T)

    stack.milvus.process.kill()
    request = pb.CreateImageRequest(
        collection=collection, image=pb.NewImage(id="good", data=picture("green")), replace=True
    )
    error = refused(ingest.CreateImage, request)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "STORED_NOT_INDEXED")
    # What the index advises.
    assert error.retry_after_s == 1
    create(ingest, collection, LARGE, id="large", replace=True, wait_for=DURABLE)
    stack.milvus.process.start()

    def is_over() -> bool:
        try:
            return counts(ingest, collection) == (1, 0, 0)
        except grpc.RpcError:
            return False

    assert wait_until(is_over, timeout_s=RECOVERY_S)
    assert (get(ingest, collection, "good").state, get(ingest, collection, "large").state) == (SEARCHABLE, FAILED)
