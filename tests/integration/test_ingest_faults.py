"""What ingest has acknowledged survives whatever dies: real processes, killed and started again."""

import itertools
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from saccade.common.v1 import types_pb2
from saccade.errors import api_error
from saccade.ingest.v1 import ingest_service_pb2 as pb
from saccade.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from services.common.records import (
    CollectionRecord,
    ImageState,
    collection_key,
    image_key,
    original_key,
    pending_key,
    record_key,
    thumbnail_key,
)
from services.ingest.markers import Marker, Op, now_ms
from tests.engines import Process, free_port, wait_until
from tests.integration.ingest_support import (
    DURABLE,
    SEARCHABLE,
    SEGMENTED,
    Ingest,
    Stack,
    T,
    change,
    counts,
    create,
    embedder_process,
    get,
    ingest_process,
    listed,
    make_collection,
    picture,
    put,
    read,
    record_of,
    refused,
    serving,
    tagged,
    touch,
)

RECOVERY_S = 60


@pytest.fixture
def service(stack: Stack) -> Iterator[Ingest]:
    with ingest_process(stack) as ingest:
        yield ingest


@contextmanager
def stopped(process: Process) -> Iterator[None]:
    """While it is dead."""
    process.kill()
    try:
        yield
    finally:
        process.start()


def become(ingest: IngestServiceStub, collection: str, wanted: tuple[int, int, int]) -> bool:
    """Wait until the collection's counts are these; an index that is not back yet is waited for too."""

    def are() -> bool:
        try:
            return counts(ingest, collection) == wanted
        except grpc.RpcError as exc:
            assert api_error(exc).code == grpc.StatusCode.UNAVAILABLE
            return False

    return wait_until(are, timeout_s=RECOVERY_S)


def is_done(ingest: IngestServiceStub, collection: str, image_id: str) -> bool:
    return get(ingest, collection, image_id).state == SEGMENTED


def test_killed_during_a_load(service: Ingest, collection: str) -> None:
    """Every image that was acknowledged becomes searchable, and none is there twice."""
    ingest = service.stub
    acknowledged: set[str] = set()
    waits = itertools.cycle((DURABLE, SEARCHABLE))

    def requests() -> Iterator[pb.StreamImagesRequest]:
        for i in range(100):
            image = pb.NewImage(id=f"i{i:03}", data=picture(seed=i), tags=["load"])
            create = pb.CreateImageRequest(collection=collection, image=image, wait_for=next(waits))
            yield pb.StreamImagesRequest(key=f"i{i:03}", create=create)

    def load(kill_after: int) -> None:
        try:
            for n, result in enumerate(ingest.StreamImages(requests(), timeout=60, wait_for_ready=True), start=1):
                assert result.HasField("created"), result
                acknowledged.add(result.key)
                if n == kill_after:
                    service.process.signal(signal.SIGKILL)
        except grpc.RpcError as exc:
            assert api_error(exc).code == grpc.StatusCode.UNAVAILABLE

    for kill_after in (20, 45):
        load(kill_after)
        assert wait_until(lambda: not service.process.running, timeout_s=T)
        service.process.restart()
        survivors = sorted(acknowledged)
        assert len(survivors) >= 20

        def searchable(names: list[str] = survivors) -> bool:
            return set(names) <= set(listed(ingest, collection, filter=tagged("load"), page_size=1_000))

        assert wait_until(searchable, timeout_s=RECOVERY_S)

    load(kill_after=0)
    assert len(acknowledged) == 100
    assert become(ingest, collection, (100, 200, 0))
    assert len(listed(ingest, collection, page_size=1_000)) == 100
    assert service.mistakes() == []


def test_without_an_embedder(ingest: IngestServiceStub, collection: str, embedder: Process) -> None:
    """What is stored while it is away is indexed when it comes back, without a retry."""
    create(ingest, collection, picture("red"), id="replaced", wait_for=SEGMENTED)
    with stopped(embedder):
        started = time.monotonic()
        for i in range(5):
            image = create(ingest, collection, picture(seed=i), id=f"d{i}", wait_for=DURABLE).image
            assert image.state == types_pb2.IMAGE_STATE_DURABLE
        assert time.monotonic() - started < T
        request = pb.CreateImageRequest(collection=collection, image=pb.NewImage(id="waited", data=picture(seed=7)))
        error = refused(ingest.CreateImage, request)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "STORED_NOT_INDEXED")
        assert "the image is stored, and will be indexed without a retry" in error.message
        create(ingest, collection, picture("green"), id="replaced", replace=True, wait_for=DURABLE)
        assert len(listed(ingest, collection)) == 7
        # Nothing finds the replaced image by what it no longer shows.
        assert become(ingest, collection, (0, 0, 7))
        assert change(ingest, collection, "d0", title="changed").title == "changed"
    assert become(ingest, collection, (7, 14, 0))
    assert get(ingest, collection, "d0").title == "changed"


def test_without_an_index(stack: Stack, ingest: IngestServiceStub, collection: str) -> None:
    """Images are stored, changed and removed; the index follows when it is back."""
    for name in ("changed", "removed"):
        create(ingest, collection, picture(seed=1), id=name, tags=["before"], wait_for=SEGMENTED)
    with stopped(stack.milvus.process):
        assert create(ingest, collection, picture(seed=2), id="new", wait_for=DURABLE).image.id == "new"
        assert change(ingest, collection, "changed", ["tags"]).title == ""
        error = refused(ingest.DeleteImage, pb.DeleteImageRequest(collection=collection, id="removed"))
        assert error.code == grpc.StatusCode.UNAVAILABLE
        assert "the deletion is recorded and goes on without a retry" in error.message
    assert become(ingest, collection, (2, 4, 0))
    assert listed(ingest, collection) == ["changed", "new"]
    assert listed(ingest, collection, filter=tagged("before")) == []
    assert refused(ingest.GetImage, pb.GetImageRequest(collection=collection, id="removed")).code == (
        grpc.StatusCode.NOT_FOUND
    )


def test_killed_in_a_deletion(stack: Stack, service: Ingest, collection: str) -> None:
    """A tombstone is enough: what it names goes, whatever of it is left."""
    ingest = service.stub
    for name in ("whole", "half", "stays"):
        create(ingest, collection, picture(seed=3), id=name, wait_for=SEGMENTED)
    service.process.kill()
    for name in ("whole", "half"):
        put(stack, pending_key(collection, name), Marker(op=Op.DELETE).model_dump_json().encode())
    touch(stack, lambda objects: objects.delete(record_key(collection, "half")))
    service.process.start()
    assert become(ingest, collection, (1, 2, 0))
    assert listed(ingest, collection) == ["stays"]
    assert touch(stack, lambda objects: objects.list(image_key(collection, "half"))) == []


def test_an_image_is_stored_while_its_namesake_is_being_removed(
    stack: Stack, ingest: IngestServiceStub, collection: str
) -> None:
    create(ingest, collection, picture(seed=3), id="a", title="old", wait_for=SEGMENTED)
    leased = Marker(op=Op.DELETE, lease_owner="another", lease_until_ms=now_ms() + 3_600_000)
    put(stack, pending_key(collection, "a"), leased.model_dump_json().encode())
    answer = create(ingest, collection, picture(seed=3), id="a", title="new", wait_for=SEGMENTED)
    assert (answer.existed, answer.image.title) == (False, "new")
    assert counts(ingest, collection) == (1, 2, 0)


def test_killed_before_the_record(stack: Stack, ingest: IngestServiceStub, collection: str) -> None:
    """A call that never ended leaves the image whole, or nothing of it."""
    data = picture(seed=4)
    whole, cut = record_of(data, id="whole", title="kept"), record_of(data, id="cut")
    # Objects first, for the service looks at what its markers say at once.
    put(stack, thumbnail_key(collection, "cut"), b"x")
    put(stack, original_key(collection, "whole"), data)
    for record in (whole, cut):
        put(stack, pending_key(collection, record.id), Marker(intent=record).model_dump_json().encode())
    assert become(ingest, collection, (1, 2, 0))
    assert get(ingest, collection, "whole").title == "kept"
    assert read(stack, thumbnail_key(collection, "whole"))
    assert touch(stack, lambda objects: objects.list(image_key(collection, "cut"))) == []


@pytest.mark.parametrize("replaced", [True, False])
def test_killed_in_a_replacement(stack: Stack, service: Ingest, collection: str, replaced: bool) -> None:
    """Where the bytes were exchanged the rest follows; where they were not, the old image stays."""
    ingest = service.stub
    old = create(ingest, collection, picture("red"), id="a", title="old", wait_for=SEGMENTED).image
    data = picture("green")
    service.process.kill()
    intent = record_of(data, title="new", created_at_ms=old.create_time.ToMilliseconds())
    put(stack, pending_key(collection, "a"), Marker(intent=intent).model_dump_json().encode())
    if replaced:
        put(stack, original_key(collection, "a"), data)
    service.process.start()
    assert become(ingest, collection, (1, 2, 0))
    found = get(ingest, collection, "a")
    assert (found.title, found.state) == ("new" if replaced else "old", SEGMENTED)
    assert found.sha256 == (intent.sha256 if replaced else old.sha256)


def test_the_same_again_over_a_replacement_that_was_cut_keeps_the_words(
    stack: Stack, ingest: IngestServiceStub, collection: str
) -> None:
    fields: dict[str, Any] = {"title": "old", "tags": ["mine"], "metadata": {"n": 1}, "source": "a.png"}
    old = create(ingest, collection, picture("red"), id="a", wait_for=SEGMENTED, **fields).image
    data = picture("green")
    # Leased, so that nobody finishes it first.
    leased = Marker(intent=record_of(data), lease_owner="another", lease_until_ms=now_ms() + 3_600_000)
    put(stack, pending_key(collection, "a"), leased.model_dump_json().encode())
    put(stack, original_key(collection, "a"), data)
    answer = create(ingest, collection, picture("red"), id="a", wait_for=SEGMENTED)
    image = answer.image
    assert (answer.existed, image.sha256, image.state) == (True, old.sha256, SEGMENTED)
    assert (image.title, image.source, image.metadata, list(image.tags)) == (
        old.title,
        old.source,
        old.metadata,
        list(old.tags),
    )
    assert read(stack, original_key(collection, "a")) == picture("red")
    assert counts(ingest, collection) == (1, 2, 0)


def test_rows_that_are_missing_are_made_anew(stack: Stack, ingest: IngestServiceStub, collection: str) -> None:
    """A marker on an image that is done has its rows looked at."""
    create(ingest, collection, picture("red"), id="a", wait_for=SEGMENTED)
    record = record_of(picture("red"), state=ImageState.SEGMENTED, segment_count=5, generation=1)
    put(stack, record_key(collection, "a"), record.to_bytes())
    put(stack, pending_key(collection, "a"), Marker().model_dump_json().encode())
    assert become(ingest, collection, (1, 2, 0))
    assert len(get(ingest, collection, "a").segments) == 2


def test_what_another_replica_works_on_is_left_alone(stack: Stack, ingest: IngestServiceStub, collection: str) -> None:
    data = picture(seed=5)
    until_ms = now_ms() + 2_000
    put(stack, original_key(collection, "a"), data)
    put(stack, record_key(collection, "a"), record_of(data).to_bytes())
    marker = Marker(lease_owner="another", lease_until_ms=until_ms)
    put(stack, pending_key(collection, "a"), marker.model_dump_json().encode())
    assert wait_until(lambda: is_done(ingest, collection, "a"), timeout_s=RECOVERY_S)
    assert now_ms() >= until_ms


def test_two_replicas_share_the_work(stack: Stack, ingest: IngestServiceStub, collection: str) -> None:
    with ingest_process(stack) as second:
        stubs = itertools.cycle((ingest, second.stub))
        for i, stub in zip(range(40), stubs, strict=False):
            create(stub, collection, picture(seed=i), id=f"i{i}", wait_for=DURABLE)
        second.process.kill()
        # What the second one had acknowledged, the first one finishes.
        assert become(ingest, collection, (40, 80, 0))
    assert all(is_done(ingest, collection, f"i{i}") for i in range(40))


def test_a_burst_with_little_room(stack: Stack) -> None:
    """What finds no room is marked, and comes into its turn."""
    settings = {"SACCADE_INGEST_MAX_IN_FLIGHT": "2", "SACCADE_INGEST_MAX_SEGMENTING": "1"}
    with ingest_process(Stack(stack.milvus, stack.embedder_port, stack.objects, settings)) as service:
        ingest = service.stub
        collection = make_collection(ingest)
        for i in range(30):
            create(ingest, collection, picture(seed=i), id=f"i{i}", wait_for=DURABLE)
        assert become(ingest, collection, (30, 60, 0))
        assert create(ingest, collection, picture(seed=99), wait_for=SEGMENTED).image.state == SEGMENTED


def test_a_stop_finishes_what_is_at_hand_and_gives_back_the_rest(
    stack: Stack, embedder: Process, collection: str, service: Ingest
) -> None:
    with ingest_process(stack) as second:
        create(second.stub, collection, picture(seed=1), id="done", wait_for=DURABLE)
        second.process.stop()
    assert wait_until(lambda: is_done(service.stub, collection, "done"), timeout_s=T)
    service.process.kill()
    settings = {"SACCADE_INGEST_LEASE_S": "3600", "SACCADE_INGEST_INDEX_DRAIN_S": "0.2"}
    with ingest_process(Stack(stack.milvus, stack.embedder_port, stack.objects, settings)) as third:
        embedder.signal(signal.SIGSTOP)
        try:
            create(third.stub, collection, picture(seed=2), id="held", wait_for=DURABLE)
            third.process.signal(signal.SIGTERM)
            assert wait_until(lambda: not third.process.running, timeout_s=T)
            assert "images given back" in third.process.output
            assert third.mistakes() == []
        finally:
            embedder.signal(signal.SIGCONT)
    service.process.start()
    assert wait_until(lambda: is_done(service.stub, collection, "held"), timeout_s=RECOVERY_S)


def test_killed_in_the_deletion_of_a_collection(stack: Stack, service: Ingest) -> None:
    ingest = service.stub
    forced, kept = (make_collection(ingest) for _ in range(2))
    for collection in (forced, kept):
        create(ingest, collection, picture(), wait_for=SEGMENTED)
    service.process.kill()
    for collection in (forced, kept):
        key = collection_key(collection)
        record = CollectionRecord.model_validate_json(read(stack, key))
        flags = {"deleting": True, "delete_forced": collection == forced}
        put(stack, key, record.model_copy(update=flags).to_bytes())
    service.process.start()

    def names() -> list[str]:
        return [
            found.name
            for found in ingest.ListCollections(pb.ListCollectionsRequest(), timeout=T, wait_for_ready=True).collections
        ]

    # Without force an image that came in meanwhile ends the deletion.
    assert wait_until(lambda: kept in names(), timeout_s=RECOVERY_S)
    assert counts(ingest, kept) == (1, 2, 0)
    assert wait_until(lambda: touch(stack, lambda objects: objects.list(f"collections/{forced}/")) == [], timeout_s=T)
    assert forced not in names()
    make_collection(ingest, name=forced)
    assert listed(ingest, forced) == []
    assert counts(ingest, forced) == (0, 0, 0)


def test_it_waits_for_what_it_needs(stack: Stack) -> None:
    embedder_away = Stack(stack.milvus, free_port(), stack.objects)
    with ingest_process(embedder_away, needs_ready=False) as service:
        assert wait_until(lambda: '"dependency": "embedder"' in service.process.output, timeout_s=T)
        assert not serving(service.port)
        with embedder_process(embedder_away.embedder_port):
            assert wait_until(lambda: serving(service.port), timeout_s=T)
            assert '"event": "ready"' in service.process.output


def test_a_damaged_record_stops_nobody_else(stack: Stack, ingest: IngestServiceStub, collection: str) -> None:
    put(stack, collection_key("a0"), b"{")
    put(stack, record_key(collection, "damaged"), b"{")
    put(stack, pending_key(collection, "damaged"), b"{")
    create(ingest, collection, picture(), id="good", wait_for=DURABLE)
    assert wait_until(lambda: is_done(ingest, collection, "good"), timeout_s=RECOVERY_S)
    error = refused(ingest.GetImage, pb.GetImageRequest(collection=collection, id="damaged"))
    assert error.code == grpc.StatusCode.INTERNAL
    assert listed(ingest, collection) == ["good"]
    create(ingest, collection, picture(seed=1), id="damaged", replace=True, wait_for=SEGMENTED)
    assert listed(ingest, collection) == ["damaged", "good"]
    put(stack, record_key(collection, "damaged"), b"{")
    ingest.DeleteImage(pb.DeleteImageRequest(collection=collection, id="damaged"), timeout=T)
    assert become(ingest, collection, (1, 2, 0))
    touch(stack, lambda objects: objects.delete(collection_key("a0")))


def test_many_interactive_callers_are_told_to_come_back(stack: Stack, embedder: Process) -> None:
    with ingest_process(
        Stack(
            stack.milvus,
            stack.embedder_port,
            stack.objects,
            {"SACCADE_INGEST_MAX_CREATES": "2", "SACCADE_INGEST_MAX_IMAGE_STREAMS": "1"},
        )
    ) as it:
        collection = make_collection(it.stub)
        codes: list[grpc.StatusCode] = []

        def call(i: int) -> None:
            try:
                create(it.stub, collection, picture(seed=i))
                codes.append(grpc.StatusCode.OK)
            except grpc.RpcError as exc:
                error = api_error(exc)
                assert error.retry_after_s > 0
                codes.append(error.code)

        embedder.signal(signal.SIGSTOP)
        threads = [threading.Thread(target=call, args=(i,)) for i in range(12)]
        for thread in threads:
            thread.start()
        try:
            assert wait_until(lambda: codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) >= 10, timeout_s=T)
        finally:
            embedder.signal(signal.SIGCONT)
        for thread in threads:
            thread.join()
        assert codes.count(grpc.StatusCode.OK) == 2
        # A second stream is told so too, and the first one goes on.
        first, send = _stream(it.stub, collection)
        send(0)
        assert next(first).created.image.id
        second, send_second = _stream(it.stub, collection)
        with pytest.raises(grpc.RpcError) as caught:
            next(second)
        assert api_error(caught.value).code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert api_error(caught.value).retry_after_s > 0
        send(1)
        assert next(first).created.image.id
        send(None)
        send_second(None)
        assert list(first) == []


def _stream(stub: IngestServiceStub, collection: str) -> tuple[Any, Callable[[int | None], None]]:
    """A stream's results, and what sends one more picture over it; None ends it."""
    waiting: queue.SimpleQueue[pb.StreamImagesRequest | None] = queue.SimpleQueue()

    def send(seed: int | None) -> None:
        if seed is None:
            waiting.put(None)
            return
        request = pb.CreateImageRequest(collection=collection, image=pb.NewImage(data=picture(seed=seed)))
        waiting.put(pb.StreamImagesRequest(key=str(seed), create=request))

    return stub.StreamImages(iter(waiting.get, None), timeout=T), send
