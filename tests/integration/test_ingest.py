"""The ingest service as its callers see it: a real process, with milvus-lite, local objects and the toy models."""

import http.server
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import field_mask_pb2

from saccade.common.v1 import types_pb2
from saccade.errors import ApiError, api_error
from saccade.ingest.v1 import ingest_service_pb2 as pb
from saccade.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from tests.engines import wait_until
from tests.integration.ingest_support import (
    DURABLE,
    FAILED,
    SEARCHABLE,
    SEGMENTED,
    T,
    change,
    counts,
    create,
    get,
    listed,
    picture,
    refused,
    tagged,
)


def test_an_image_goes_all_the_way(ingest: IngestServiceStub, collection: str) -> None:
    data = picture("red", "blue", seed=1)
    answer = create(
        ingest, collection, data, source="a.png", title="A", tags=["mine"], metadata={"n": 1}, wait_for=SEGMENTED
    )
    image = answer.image
    assert not answer.existed
    assert (len(image.id), image.state, image.content_type, image.size_bytes) == (26, SEGMENTED, "image/png", len(data))
    assert (image.width, image.height, image.source, image.title) == (64, 64, "a.png", "A")
    assert image.metadata["n"] == 1
    assert image.tags[0] == types_pb2.Tag(name="mine", confidence=1)
    assert image.etag
    assert image.create_time == image.update_time

    found = get(ingest, collection, image.id)
    assert len(found.segments) == 2
    assert sum(segment.area_fraction for segment in found.segments) == pytest.approx(1, abs=0.05)
    assert not found.segments[0].HasField("mask")
    assert not found.segments[0].HasField("vector")
    assert "/original?" in found.original_url
    assert "/thumbnail.webp?" in found.thumbnail_url
    model_tags = {tag.name for segment in found.segments for tag in segment.tags}
    assert {tag.name for tag in found.tags} == {"mine", *model_tags}

    found = get(ingest, collection, image.id, include_masks=True, include_vectors=True)
    for segment in found.segments:
        assert sum(segment.mask.counts) == segment.mask.width * segment.mask.height
        assert len(segment.vector.shape) == 1

    assert counts(ingest, collection) == (1, 2, 0)
    assert listed(ingest, collection, filter=tagged("mine")) == [image.id]


def test_segments_come_without_waiting(ingest: IngestServiceStub, collection: str) -> None:
    image = create(ingest, collection, picture(seed=2)).image
    assert image.state in {SEARCHABLE, SEGMENTED}
    assert wait_until(lambda: get(ingest, collection, image.id).state == SEGMENTED, timeout_s=T)
    image = create(ingest, collection, picture(seed=3), wait_for=DURABLE).image
    assert wait_until(lambda: get(ingest, collection, image.id).state == SEGMENTED, timeout_s=T)


def test_the_same_again_changes_nothing(ingest: IngestServiceStub, collection: str) -> None:
    data = picture(seed=4)
    first = create(ingest, collection, data, title="first", wait_for=SEGMENTED)
    again = create(ingest, collection, data, title="second", tags=["new"])
    assert (again.existed, again.image.title, again.image.etag) == (True, "first", first.image.etag)
    named = create(ingest, collection, data, id="named")
    assert (named.existed, named.image.id) == (False, "named")
    assert listed(ingest, collection) == sorted([first.image.id, "named"])


def test_an_id_with_other_content(ingest: IngestServiceStub, collection: str) -> None:
    first = create(ingest, collection, picture("red"), id="a", title="first", wait_for=SEGMENTED).image
    request = pb.CreateImageRequest(collection=collection, image=pb.NewImage(id="a", data=picture("green")))
    error = refused(ingest.CreateImage, request)
    assert (error.code, error.fields[0][0]) == (grpc.StatusCode.ALREADY_EXISTS, "image.id")
    answer = create(ingest, collection, picture("green"), id="a", title="new", replace=True, wait_for=SEGMENTED)
    assert (answer.existed, answer.image.title, answer.image.state) == (False, "new", SEGMENTED)
    assert answer.image.sha256 != first.sha256
    assert answer.image.etag != first.etag
    assert answer.image.create_time == first.create_time
    assert counts(ingest, collection) == (1, 2, 0)


def test_replacing_with_the_same_bytes_takes_over_the_words(ingest: IngestServiceStub, collection: str) -> None:
    first = create(ingest, collection, picture(), id="a", title="first", tags=["old"], wait_for=SEGMENTED).image
    answer = create(ingest, collection, picture(), id="a", title="new", tags=["fresh"], replace=True)
    assert (answer.existed, answer.image.title, answer.image.state) == (True, "new", SEGMENTED)
    assert answer.image.etag != first.etag
    assert listed(ingest, collection, filter=tagged("old")) == []
    assert listed(ingest, collection, filter=tagged("fresh")) == ["a"]
    assert len(get(ingest, collection, "a").segments) == 2


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({}, grpc.StatusCode.INVALID_ARGUMENT, "image"),
        ({"image": pb.NewImage()}, grpc.StatusCode.INVALID_ARGUMENT, "image"),
        ({"image": pb.NewImage(data=b"")}, grpc.StatusCode.INVALID_ARGUMENT, "image.data"),
        ({"image": pb.NewImage(data=b"GIF89a")}, grpc.StatusCode.INVALID_ARGUMENT, "image.data"),
        ({"image": pb.NewImage(data=picture()[:-20])}, grpc.StatusCode.INVALID_ARGUMENT, "image.data"),
        ({"image": pb.NewImage(data=picture(side_px=4))}, grpc.StatusCode.INVALID_ARGUMENT, "image.data"),
        ({"image": pb.NewImage(data=b"\xff\xd8\xff" * 12_000_000)}, grpc.StatusCode.INVALID_ARGUMENT, "image.data"),
        ({"image": pb.NewImage(data=picture(), id="A B")}, grpc.StatusCode.INVALID_ARGUMENT, "image.id"),
        ({"image": pb.NewImage(url="")}, grpc.StatusCode.INVALID_ARGUMENT, "image.url"),
        ({"image": pb.NewImage(url="http://127.0.0.1:1/")}, grpc.StatusCode.UNAVAILABLE, "image.url"),
        ({"image": pb.NewImage(url="file:///etc/passwd")}, grpc.StatusCode.INVALID_ARGUMENT, "image.url"),
        ({"collection": "none", "image": pb.NewImage(data=picture())}, grpc.StatusCode.NOT_FOUND, "collection"),
        ({"collection": "No!", "image": pb.NewImage(data=picture())}, grpc.StatusCode.INVALID_ARGUMENT, "collection"),
        ({"wait_for": FAILED, "image": pb.NewImage(data=picture())}, grpc.StatusCode.INVALID_ARGUMENT, "wait_for"),
    ],
)
def test_what_is_not_stored(
    ingest: IngestServiceStub, collection: str, fields: dict[str, Any], code: grpc.StatusCode, field: str
) -> None:
    error = refused(ingest.CreateImage, pb.CreateImageRequest(**{"collection": collection, **fields}))
    assert (error.code, error.fields[0][0]) == (code, field)
    if code == grpc.StatusCode.UNAVAILABLE:
        assert error.reason == "URL_UNREACHABLE"
    assert listed(ingest, collection) == []
    assert counts(ingest, collection) == (0, 0, 0)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A web site with a picture and a text."""
    (tmp_path / "a.png").write_bytes(picture(seed=9))
    (tmp_path / "fake.png").write_bytes(b"no picture")
    (tmp_path / "a.txt").write_text("text")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_image_from_an_address(ingest: IngestServiceStub, collection: str, site: str) -> None:
    image = create(ingest, collection, url=f"{site}/a.png").image
    assert (image.source, image.size_bytes) == (f"{site}/a.png", len(picture(seed=9)))
    for name in ("a.txt", "fake.png", "none.png"):
        request = pb.CreateImageRequest(collection=collection, image=pb.NewImage(url=f"{site}/{name}"))
        error = refused(ingest.CreateImage, request)
        assert (error.code, error.fields[0][0]) == (grpc.StatusCode.INVALID_ARGUMENT, "image.url")


def test_a_stream_of_good_and_bad(ingest: IngestServiceStub, collection: str) -> None:
    def item(key: str, **fields: Any) -> pb.StreamImagesRequest:
        return pb.StreamImagesRequest(
            key=key, create=pb.CreateImageRequest(**{"collection": collection, "wait_for": DURABLE, **fields})
        )

    def requests() -> Iterator[pb.StreamImagesRequest]:
        for i in range(30):
            yield item(f"good{i}", image=pb.NewImage(id=f"i{i}", data=picture(seed=i)))
            if i % 3 == 0:
                yield item(f"bad{i}", image=pb.NewImage(data=b"no picture"))
        yield item("elsewhere", collection="none", image=pb.NewImage(data=picture()))
        yield item("empty")
        yield pb.StreamImagesRequest(key="nothing")
        yield item("", image=pb.NewImage(id="nokey", data=picture()))

    results = list(ingest.StreamImages(requests(), timeout=60))
    good = {result.key: result.created.image.id for result in results if result.HasField("created")}
    bad = {result.key: result.error for result in results if result.HasField("error")}
    assert len(results) == 44
    assert good == {f"good{i}": f"i{i}" for i in range(30)} | {"": "nokey"}
    assert (bad["bad0"].code, bad["bad0"].reason, bad["bad0"].field) == (3, "IMAGE_FORMAT", "image.data")
    assert (bad["elsewhere"].code, bad["elsewhere"].field) == (5, "collection")
    assert (bad["empty"].code, bad["empty"].field) == (3, "image")
    assert (bad["nothing"].code, bad["nothing"].field) == (3, "image")

    assert wait_until(lambda: counts(ingest, collection) == (31, 62, 0), timeout_s=T)


def test_a_stream_that_its_caller_leaves(ingest: IngestServiceStub, collection: str) -> None:
    stop = threading.Event()

    def requests() -> Iterator[pb.StreamImagesRequest]:
        for i in itertools.count():
            if stop.is_set():
                return
            image = pb.NewImage(id=f"i{i}", data=picture(seed=i))
            yield pb.StreamImagesRequest(
                key=str(i), create=pb.CreateImageRequest(collection=collection, image=image, wait_for=DURABLE)
            )

    call = ingest.StreamImages(requests(), timeout=60)
    acknowledged = [next(call).created.image.id for _ in range(20)]
    call.cancel()
    stop.set()

    def finished() -> bool:
        return all(get(ingest, collection, image_id).state == SEGMENTED for image_id in acknowledged)

    assert wait_until(finished, timeout_s=T)
    assert wait_until(lambda: counts(ingest, collection)[2] == 0, timeout_s=T)
    create(ingest, collection, picture("pink"))


def test_an_image_is_changed(ingest: IngestServiceStub, collection: str) -> None:
    first = create(ingest, collection, picture(), id="a", title="old", tags=["old"], wait_for=SEGMENTED).image
    image = change(ingest, collection, "a", title="new", etag=first.etag)
    assert (image.title, image.tags[0].name) == ("new", "old")
    assert image.etag != first.etag
    assert image.update_time.ToMilliseconds() >= first.update_time.ToMilliseconds()

    image = change(ingest, collection, "a", ["tags", "metadata"], metadata={"year": 2026})
    assert "old" not in {tag.name for tag in image.tags}
    assert listed(ingest, collection, filter=tagged("old")) == []
    year = types_pb2.Filter.Metadata(path=["year"], range=types_pb2.Filter.Range(min=2026, max=2026))
    assert listed(ingest, collection, filter=types_pb2.Filter(metadata=year)) == ["a"]
    year = types_pb2.Filter.Metadata(path=["year"])
    year.equals.number_value = 2026
    assert listed(ingest, collection, filter=types_pb2.Filter(metadata=year)) == ["a"]

    # What was read can be sent back whole: the model's tags stay the model's.
    read = get(ingest, collection, "a")
    request = pb.UpdateImageRequest(image=read, update_mask=field_mask_pb2.FieldMask(paths=["tags", "title"]))
    image = ingest.UpdateImage(request, timeout=T).image
    assert (image.etag, image.title, list(image.tags)) == (read.etag, read.title, list(read.tags))
    assert get(ingest, collection, "a").etag == read.etag
    assert len(get(ingest, collection, "a").segments) == 2


def test_a_change_of_what_changed_meanwhile(ingest: IngestServiceStub, collection: str) -> None:
    create(ingest, collection, picture(), id="a", wait_for=SEGMENTED)
    image = types_pb2.Image(collection=collection, id="a", title="new", etag="stale")
    error = refused(ingest.UpdateImage, pb.UpdateImageRequest(image=image))
    assert (error.code, error.fields[0][0]) == (grpc.StatusCode.ABORTED, "image.etag")
    for field in ("id", "collection"):
        setattr(image, field, "none")
        error = refused(ingest.UpdateImage, pb.UpdateImageRequest(image=image))
        assert (error.code, error.fields[0][0]) == (grpc.StatusCode.NOT_FOUND, f"image.{field}")


def test_segmenting_does_not_change_the_etag(ingest: IngestServiceStub, collection: str) -> None:
    first = create(ingest, collection, picture(), id="a", wait_for=DURABLE).image
    assert wait_until(lambda: get(ingest, collection, "a").state == SEGMENTED, timeout_s=T)
    assert change(ingest, collection, "a", title="new", etag=first.etag).title == "new"


def test_an_image_is_removed(ingest: IngestServiceStub, collection: str) -> None:
    image = create(ingest, collection, picture(), id="a", wait_for=SEGMENTED).image
    create(ingest, collection, picture("green"), id="b", wait_for=SEGMENTED)
    request = pb.DeleteImageRequest(collection=collection, id="a")
    ingest.DeleteImage(request, timeout=T)
    assert refused(ingest.GetImage, pb.GetImageRequest(collection=collection, id="a")).code == grpc.StatusCode.NOT_FOUND
    assert listed(ingest, collection) == ["b"]
    assert counts(ingest, collection) == (1, 2, 0)
    error = refused(ingest.DeleteImage, request)
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "IMAGE_NOT_FOUND")
    request.allow_missing = True
    ingest.DeleteImage(request, timeout=T)
    again = create(ingest, collection, picture(), id="a", wait_for=SEGMENTED)
    assert (again.existed, again.image.sha256) == (False, image.sha256)


def test_an_image_is_removed_while_it_is_indexed(ingest: IngestServiceStub, collection: str) -> None:
    for i in range(10):
        create(ingest, collection, picture(seed=i), id=f"i{i}", wait_for=DURABLE)
        ingest.DeleteImage(pb.DeleteImageRequest(collection=collection, id=f"i{i}"), timeout=T)

    assert wait_until(lambda: counts(ingest, collection) == (0, 0, 0), timeout_s=T)
    assert listed(ingest, collection) == []


def test_many_callers_of_one_image(ingest: IngestServiceStub, collection: str) -> None:
    """Stores, replacements, changes and removals of the same id at once: the end is one of them, whole."""
    errors: list[ApiError] = []

    def call(i: int) -> None:
        try:
            if i % 4 == 3:
                ingest.DeleteImage(pb.DeleteImageRequest(collection=collection, id="a", allow_missing=True), timeout=T)
            elif i % 4 == 2:
                change(ingest, collection, "a", title=f"t{i}")
            else:
                create(ingest, collection, picture(seed=i), id="a", replace=True, title=f"t{i}")
        except grpc.RpcError as exc:
            errors.append(api_error(exc))

    threads = [threading.Thread(target=call, args=(i,)) for i in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Who waited for an image that another caller replaced or removed is told so.
    allowed = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED}
    assert {error.code for error in errors} <= allowed, errors
    last = create(ingest, collection, picture("pink"), id="a", replace=True, wait_for=SEGMENTED).image
    assert get(ingest, collection, "a").sha256 == last.sha256
    assert counts(ingest, collection) == (1, 2, 0)
