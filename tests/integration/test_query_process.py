"""The query service as a process: what else it serves, how it starts and stops, and what it does without its peers."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest

from saccade.errors import ApiError, api_error
from saccade.query.v1 import query_service_pb2 as pb
from saccade.query.v1.query_service_pb2_grpc import QueryServiceStub
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


def test_what_is_not_offered_says_so(query: QueryServiceStub) -> None:
    calls: list[Callable[[], object]] = [
        lambda: query.ListTags(pb.ListTagsRequest(collection="toys"), timeout=TIMEOUT_S),
        lambda: query.ProjectImages(pb.ProjectImagesRequest(collection="toys"), timeout=TIMEOUT_S),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert error_of(caught).code == grpc.StatusCode.UNIMPLEMENTED
        assert "not offered" in error_of(caught).message


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
