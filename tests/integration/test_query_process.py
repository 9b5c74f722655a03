"""The query service as a process: what else it serves, how it starts and stops, and what it does without its peers."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import grpc
import numpy as np
import pytest

from saccade.common.v1 import types_pb2
from saccade.errors import ApiError, api_error
from saccade.query.v1 import query_service_pb2 as pb
from saccade.query.v1.query_service_pb2_grpc import QueryServiceStub
from services.common.tensors import to_tensor
from tests.engines import EngineError, free_port, wait_until
from tests.integration.query_gallery import (
    LEFT,
    MIDDLE,
    TIMEOUT_S,
    Stack,
    box,
    connected,
    ids,
    picture,
    search,
    start_process,
)

PICTURE = picture("white", (("red", MIDDLE),))


def red(**fields: object) -> pb.SearchRequest:
    return pb.SearchRequest(collection="toys", parts=[pb.Part(text="red")], **fields)  # type: ignore[arg-type]


def error_of(caught: pytest.ExceptionInfo[grpc.RpcError]) -> ApiError:
    return api_error(caught.value)


def test_a_picture_is_taken_apart(query: QueryServiceStub) -> None:
    request = pb.SegmentImageRequest(collection="toys", image=PICTURE)
    segments = query.SegmentImage(request, timeout=TIMEOUT_S).segments
    assert [segment.index for segment in segments] == [0, 1]
    # What covers most of the picture is its background.
    assert {(tag.name, tag.category) for segment in segments for tag in segment.tags} == {("red", "colour")}
    for segment in segments:
        assert sum(segment.mask.counts) == segment.mask.width * segment.mask.height
    request.max_segments = 1
    assert len(query.SegmentImage(request, timeout=TIMEOUT_S).segments) == 1


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (pb.SegmentImageRequest(collection="no", image=PICTURE), grpc.StatusCode.NOT_FOUND, "collection"),
        (pb.SegmentImageRequest(collection="", image=PICTURE), grpc.StatusCode.INVALID_ARGUMENT, "collection"),
        (pb.SegmentImageRequest(collection="toys"), grpc.StatusCode.INVALID_ARGUMENT, "image"),
        (pb.SegmentImageRequest(collection="toys", image=b"GIF89a"), grpc.StatusCode.INVALID_ARGUMENT, "image"),
        (pb.SegmentImageRequest(collection="toys", image=PICTURE[:70]), grpc.StatusCode.INVALID_ARGUMENT, "image"),
        (
            pb.SegmentImageRequest(collection="toys", image=PICTURE, max_segments=65),
            grpc.StatusCode.INVALID_ARGUMENT,
            "max_segments",
        ),
    ],
)
def test_what_can_not_be_taken_apart(
    query: QueryServiceStub, request_: pb.SegmentImageRequest, code: grpc.StatusCode, field: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        query.SegmentImage(request_, timeout=TIMEOUT_S)
    assert (error_of(caught).code, error_of(caught).fields[0][0]) == (code, field)


def test_a_map(query: QueryServiceStub) -> None:
    request = pb.ProjectImagesRequest(collection="toys", parts=[pb.Part(text="red"), pb.Part(image_id="blue")])
    map_ = query.ProjectImages(request, timeout=TIMEOUT_S)
    places = {image.image_id: np.array([image.x, image.y]) for image in map_.images}
    assert {"red", "blue", "green"} <= set(places)
    # What looks alike lies together.
    assert np.linalg.norm(places["red"] - places["red-new"]) < 1e-3
    assert np.linalg.norm(places["red"] - places["blue"]) > 0.1
    there = np.array([map_.parts[1].x, map_.parts[1].y])
    assert np.linalg.norm(there - places["blue"]) < 1e-3
    assert 0 < map_.explained_variance[1] <= map_.explained_variance[0] <= 1
    assert query.ProjectImages(request, timeout=TIMEOUT_S) == map_
    few = query.ProjectImages(pb.ProjectImagesRequest(collection="toys", max_images=3), timeout=TIMEOUT_S)
    assert len(few.images) == 3


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"collection": "nowhere"}, grpc.StatusCode.NOT_FOUND, "collection"),
        ({"max_images": 20_001}, grpc.StatusCode.INVALID_ARGUMENT, "max_images"),
        ({"method": 7}, grpc.StatusCode.INVALID_ARGUMENT, "method"),
        ({"parts": [pb.Part()]}, grpc.StatusCode.INVALID_ARGUMENT, "parts[0]"),
        ({"parts": [pb.Part(text="x")] * 17}, grpc.StatusCode.INVALID_ARGUMENT, "parts"),
    ],
)
def test_maps_that_can_not_be_drawn(
    query: QueryServiceStub, fields: dict[str, Any], code: grpc.StatusCode, field: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        query.ProjectImages(pb.ProjectImagesRequest(**({"collection": "toys"} | fields)), timeout=TIMEOUT_S)
    assert (error_of(caught).code, error_of(caught).fields[0][0]) == (code, field)


def test_tags_are_counted(query: QueryServiceStub) -> None:
    whole = query.ListTags(pb.ListTagsRequest(collection="toys"), timeout=TIMEOUT_S)
    counts = [(tag.name, tag.image_count) for tag in whole.tags]
    assert counts == sorted(counts, key=lambda pair: (-pair[1], pair[0]))
    assert len({name for name, _ in counts}) == len(counts) > 2
    assert not whole.next_page_token
    paged, token = [], ""
    while True:
        page = query.ListTags(pb.ListTagsRequest(collection="toys", page_size=2, page_token=token), timeout=TIMEOUT_S)
        paged += [(tag.name, tag.image_count) for tag in page.tags]
        token = page.next_page_token
        if not token:
            break
    assert paged == counts
    name, count = counts[0]
    of_it = types_pb2.Filter(tags=types_pb2.Filter.Tags(names=[name]))
    narrowed = query.ListTags(pb.ListTagsRequest(collection="toys", filter=of_it), timeout=TIMEOUT_S)
    assert (narrowed.tags[0].image_count, narrowed.tags[0].name <= name) == (count, True)


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"collection": "nowhere"}, grpc.StatusCode.NOT_FOUND, "collection"),
        ({"page_size": 1_001}, grpc.StatusCode.INVALID_ARGUMENT, "page_size"),
        ({"page_token": "x"}, grpc.StatusCode.INVALID_ARGUMENT, "page_token"),
        ({"filter": types_pb2.Filter(ids=types_pb2.Filter.Ids())}, grpc.StatusCode.INVALID_ARGUMENT, "filter.ids.ids"),
    ],
)
def test_tags_that_can_not_be_listed(
    query: QueryServiceStub, fields: dict[str, Any], code: grpc.StatusCode, field: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        query.ListTags(pb.ListTagsRequest(**({"collection": "toys"} | fields)), timeout=TIMEOUT_S)
    assert (error_of(caught).code, error_of(caught).fields[0][0]) == (code, field)


def test_many_at_a_time(gallery: Stack) -> None:
    """Each gets the right answer, or is told when to come back."""
    settings = gallery.environment | {"SACCADE_QUERY_MAX_SEARCHES": "2", "SACCADE_QUERY_MAX_WAITING": "4"}
    with start_process("services.query", settings) as (_, address), connected(address) as query:

        def ask(_: int) -> str:
            try:
                return query.Search(red(top_k=1, mode=pb.SEARCH_MODE_WHOLE), timeout=TIMEOUT_S).results[0].image.id
            except grpc.RpcError as exc:
                error = api_error(exc)
                assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED
                assert error.retry_after_s > 0
                return "later"

        with ThreadPoolExecutor(24) as threads:
            answers = list(threads.map(ask, range(96)))
    assert set(answers) <= {"red", "later"}
    assert answers.count("red") >= 6


def test_without_an_embedder_stored_pictures_are_searched_all_the_same(gallery: Stack) -> None:
    settings = gallery.environment | {"SACCADE_EMBEDDER_ADDRESS": f"dns:///127.0.0.1:{free_port()}"}
    with start_process("services.query", settings) as (_, address), connected(address) as query:
        stored = pb.SearchRequest(collection="toys", parts=[pb.Part(image_id="red")])
        assert len(query.Search(stored, timeout=TIMEOUT_S).results) == 10
        with pytest.raises(grpc.RpcError) as caught:
            query.Search(red(), timeout=TIMEOUT_S)
        assert error_of(caught).code == grpc.StatusCode.UNAVAILABLE
        assert "embedder" in error_of(caught).message
        # A vector needs it for its tags alone, which are left out.
        vector = to_tensor(np.eye(60, dtype=np.float32)[0])
        own = pb.SearchRequest(collection="toys", parts=[pb.Part(vector=vector)])
        answer = query.Search(own, timeout=TIMEOUT_S)
        assert answer.results
        assert [missing.split(":")[0] for missing in answer.plan.degraded] == ["tags of parts[0].vector"]
        # Words and stored pictures have tags without it.
        parts = [pb.Part(text="red"), pb.Part(image_id="red-blue"), pb.Part(text="white", weight=-1)]
        by_tags = pb.SearchRequest(collection="toys", parts=parts, mode=pb.SEARCH_MODE_TAGS)
        assert "red" in ids(query.Search(by_tags, timeout=TIMEOUT_S))
        titled = pb.SearchRequest(collection="toys", title_text="painting")
        assert query.Search(titled, timeout=TIMEOUT_S).results


def test_without_a_segmenter_the_answer_says_what_was_left_out(gallery: Stack) -> None:
    blind = {"SACCADE_MODEL": "toy", "SACCADE_SEGMENTER": ""}
    with start_process("services.embedder", blind) as (_, embedder):
        settings = gallery.environment | {"SACCADE_EMBEDDER_ADDRESS": f"dns:///{embedder}"}
        with start_process("services.query", settings) as (_, address), connected(address) as query:
            request = pb.SearchRequest(collection="toys", parts=[pb.Part(image=picture("red"))])
            answer = query.Search(request, timeout=TIMEOUT_S)
            assert answer.results[0].image.id == "red"
            assert list(answer.plan.degraded) == ["segments of parts[0].image: the embedder has no segmenter"]
            with pytest.raises(grpc.RpcError) as caught:
                query.SegmentImage(pb.SegmentImageRequest(collection="toys", image=PICTURE), timeout=TIMEOUT_S)
            assert error_of(caught).reason == "NO_SEGMENTER"


def test_it_ends_in_good_order(gallery: Stack) -> None:
    with start_process("services.query", gallery.environment) as (process, address), connected(address) as query:
        query.Search(red(), timeout=TIMEOUT_S)
        process.signal(signal.SIGTERM)
        assert wait_until(lambda: not process.running, timeout_s=TIMEOUT_S)
        assert "draining" in process.last_lines()
        assert "stopped" in process.last_lines()


def test_a_wrong_setting_stops_it_with_a_sentence(gallery: Stack) -> None:
    wrong = gallery.environment | {"SACCADE_QUERY_MAX_SEARCHES": "0"}
    with pytest.raises(EngineError, match="MAX_SEARCHES"), start_process("services.query", wrong):
        pass


@pytest.fixture
def web() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            self.wfile.write(picture("blue"))

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/blue.png"
        server.shutdown()
        thread.join()


def test_a_picture_from_an_address(query: QueryServiceStub, web: str) -> None:
    assert ids(search(query, pb.Part(image_url=web)))[0] == "blue"
    region = pb.Region(image_url=web, box=box(*LEFT))
    (found,) = ids(search(query, pb.Part(region=region), mode=pb.SEARCH_MODE_SEGMENT, top_k=1))
    assert "blue" in found
