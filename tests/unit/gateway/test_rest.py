import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from saccade.query.v1 import query_service_pb2 as query_pb
from services.common.errors import InvalidArgument
from services.gateway import rest
from services.gateway.backends import SERVICES
from services.gateway.calls import CALLS
from services.gateway.transcode import parse_json

from .conftest import Gateway, running_gateway

PICTURE = b"\x89PNG picture"


def last(gateway: Gateway) -> dict[str, Any]:
    message: Message = gateway.recorder.requests[-1]
    found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return found


def test_every_call_of_the_contracts_has_an_address() -> None:
    offered = {(call.service.full_name, call.rpc) for call in CALLS}
    assert offered == {(service.full_name, method.name) for service in SERVICES for method in service.methods}


def test_no_two_calls_share_an_address() -> None:
    assert len({(call.verb, call.path) for call in CALLS}) == len(CALLS)


ROUTES = [
    ("GET", "/v1/model?model=m", None, "GetModel", {"model": "m"}),
    ("POST", "/v1/model:embedTexts", {"texts": ["a"]}, "EmbedTexts", {"texts": ["a"]}),
    ("POST", "/v1/model:embedImages", {"images": ["AAA="]}, "EmbedImages", {"images": ["AAA="]}),
    ("POST", "/v1/model:analyzeImages", {"images": ["AAA="]}, "AnalyzeImages", {"images": ["AAA="]}),
    ("POST", "/v1/model:segmentAt", {"image": "AAA="}, "SegmentAt", {"image": "AAA="}),
    ("POST", "/v1/model:embedRegions", {"image": "AAA="}, "EmbedRegions", {"image": "AAA="}),
    ("POST", "/v1/model:chooseTags", {"area_fractions": [0.5]}, "ChooseTags", {"area_fractions": [0.5]}),
    ("POST", "/v1/collections", {"name": "c"}, "CreateCollection", {"collection": {"name": "c"}}),
    ("GET", "/v1/collections?page_size=5", None, "ListCollections", {"page_size": 5}),
    ("GET", "/v1/collections/c", None, "GetCollection", {"name": "c"}),
    ("DELETE", "/v1/collections/c?force=true", None, "DeleteCollection", {"name": "c", "force": True}),
    (
        "POST",
        "/v1/collections/c/images?wait_for=segmented&replace=1",
        {"url": "http://a/b", "tags": ["x"]},
        "CreateImage",
        {
            "collection": "c",
            "image": {"url": "http://a/b", "tags": ["x"]},
            "wait_for": "IMAGE_STATE_SEGMENTED",
            "replace": True,
        },
    ),
    (
        "GET",
        '/v1/collections/c/images?page_token=t&filter={"tags":{"names":["x"]}}',
        None,
        "ListImages",
        {"collection": "c", "page_token": "t", "filter": {"tags": {"names": ["x"]}}},
    ),
    (
        "GET",
        "/v1/collections/c/images/i.1?include_masks=true",
        None,
        "GetImage",
        {"collection": "c", "id": "i.1", "include_masks": True},
    ),
    (
        "PATCH",
        "/v1/collections/c/images/i?update_mask=title,tags",
        {"title": "t", "etag": "e"},
        "UpdateImage",
        {"image": {"collection": "c", "id": "i", "title": "t", "etag": "e"}, "update_mask": "title,tags"},
    ),
    (
        "DELETE",
        "/v1/collections/c/images/i?allow_missing=true",
        None,
        "DeleteImage",
        {"collection": "c", "id": "i", "allow_missing": True},
    ),
    (
        "POST",
        "/v1/collections/c/images:import",
        {"urls": {"urls": ["http://a/b"]}},
        "ImportImages",
        {"collection": "c", "urls": {"urls": ["http://a/b"]}},
    ),
    ("POST", "/v1/collections/c:reindex", {"model": "m"}, "ReindexCollection", {"collection": "c", "model": "m"}),
    ("POST", "/v1/collections/c:retag", None, "RetagCollection", {"collection": "c"}),
    ("POST", "/v1/collections/c:repair", {"dry_run": True}, "RepairCollection", {"collection": "c", "dry_run": True}),
    ("GET", "/v1/jobs?collection=c", None, "ListJobs", {"collection": "c"}),
    ("GET", "/v1/jobs/j", None, "GetJob", {"id": "j"}),
    ("POST", "/v1/jobs/j:cancel", None, "CancelJob", {"id": "j"}),
    (
        "PUT",
        "/v1/vocabularies/v",
        {"entries": [{"name": "cat"}]},
        "PutVocabulary",
        {"vocabulary": {"name": "v", "entries": [{"name": "cat"}]}},
    ),
    ("GET", "/v1/vocabularies/v", None, "GetVocabulary", {"name": "v"}),
    (
        "POST",
        "/v1/collections/c/search",
        {"parts": [{"text": "a", "weight": -1}], "top_k": 3},
        "Search",
        {"collection": "c", "parts": [{"text": "a", "weight": -1.0}], "top_k": 3},
    ),
    (
        "GET",
        "/v1/collections/c/search?text=a+cat&image_id=i&top_k=3&mode=segment",
        None,
        "Search",
        {
            "collection": "c",
            "parts": [{"text": "a cat"}, {"image_id": "i"}],
            "top_k": 3,
            "mode": "SEARCH_MODE_SEGMENT",
        },
    ),
    (
        "POST",
        "/v1/collections/c/segment",
        {"image": "AAA=", "max_segments": 4},
        "SegmentImage",
        {"collection": "c", "image": "AAA=", "max_segments": 4},
    ),
    ("GET", "/v1/collections/c/tags?page_size=9", None, "ListTags", {"collection": "c", "page_size": 9}),
    ("POST", "/v1/collections/c/project", {"max_images": 9}, "ProjectImages", {"collection": "c", "max_images": 9}),
]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route[0]} {route[1].partition('?')[0]}")
async def test_each_address_makes_its_call(gateway: Gateway, route: tuple[str, str, Any, str, dict[str, Any]]) -> None:
    verb, address, body, rpc, expected = route
    response = await gateway.http.request(verb, address, json=body)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json"), response.text
    assert gateway.recorder.requests[-1].DESCRIPTOR.name == f"{rpc}Request"
    assert last(gateway) == expected


def test_each_unary_call_is_among_those_tried() -> None:
    tried = {rpc for _, _, _, rpc, _ in ROUTES}
    assert tried == {call.rpc for call in CALLS if not call.method.client_streaming}


async def test_answers_show_every_field_in_snake_case(gateway: Gateway) -> None:
    gateway.recorder.answers["Search"] = query_pb.SearchResponse(results=[query_pb.SearchResult(score=0.1)])
    response = await gateway.http.get("/v1/collections/c/search?text=a")
    assert response.json()["results"] == [
        {"score": 0.1, "matched_segments": [], "score_parts": [], "duplicate_ids": []}
    ]


async def test_a_form_stores_a_picture(gateway: Gateway) -> None:
    fields = {
        "id": "i",
        "title": "t",
        "metadata": '{"year": 1999}',
        "tags": ["x", "y"],
        "wait_for": "DURABLE",
        "replace": "true",
    }
    response = await gateway.http.post(
        "/v1/collections/c/images", data=fields, files={"file": ("a b.png", PICTURE, "image/png")}
    )
    assert response.status_code == 200, response.text
    asked = gateway.recorder.requests[-1]
    assert asked.image.data == PICTURE  # type: ignore[attr-defined]
    expected = last(gateway)
    expected["image"].pop("data")
    assert expected == {
        "collection": "c",
        "image": {"id": "i", "title": "t", "metadata": {"year": 1999.0}, "tags": ["x", "y"], "source": "a b.png"},
        "wait_for": "IMAGE_STATE_DURABLE",
        "replace": True,
    }


async def test_a_list_of_pictures_is_given_picture_by_picture(gateway: Gateway) -> None:
    files = [("file", ("a", PICTURE)), ("file", ("b", b"other")), ("images", ("c", b"third"))]
    response = await gateway.http.post("/v1/model:embedImages", files=files)
    assert response.status_code == 200, response.text
    asked = gateway.recorder.requests[-1]
    assert list(asked.images) == [PICTURE, b"other", b"third"]  # type: ignore[attr-defined]


async def test_a_long_form_is_read_beside_the_event_loop(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of a form may be JSON and base64, which take long to read."""
    threads: list[int] = []

    def noted(raw: bytes | str, field: str = "") -> Any:
        threads.append(threading.get_ident())
        return parse_json(raw, field)

    monkeypatch.setattr(rest, "parse_json", noted)
    for size in (1, rest.INLINE_BYTES):
        request = json.dumps({"parts": [{"text": "a" * size}]})
        response = await gateway.http.post("/v1/collections/c/search", files={"request": (None, request)})
        assert response.status_code == 200, response.text
    short, long = threads
    assert short == threading.get_ident() != long


async def test_a_form_searches_with_pictures_named_by_their_place(gateway: Gateway) -> None:
    request = {"parts": [{"weight": 2}, {"region": {"box": {"x1": 0.5, "y1": 0.5}}}], "mode": "SEARCH_MODE_SEGMENT"}
    response = await gateway.http.post(
        "/v1/collections/c/search",
        data={"request": json.dumps(request)},
        files=[("parts.0.image", ("a", PICTURE)), ("parts.1.region.image", ("b", b"other"))],
    )
    assert response.status_code == 200, response.text
    asked = gateway.recorder.requests[-1]
    assert isinstance(asked, query_pb.SearchRequest)
    assert [part.WhichOneof("content") for part in asked.parts] == ["image", "region"]
    assert (asked.parts[0].image, asked.parts[0].weight, asked.parts[1].region.image) == (PICTURE, 2, b"other")


@pytest.mark.parametrize("path", ["search", "segment"])
async def test_a_form_of_one_file_is_enough(gateway: Gateway, path: str) -> None:
    response = await gateway.http.post(f"/v1/collections/c/{path}", files={"file": ("a.png", PICTURE)})
    assert response.status_code == 200, response.text
    asked = gateway.recorder.requests[-1]
    assert PICTURE in asked.SerializeToString()


@pytest.mark.parametrize(
    "case",
    [
        ("POST", "/v1/collections/c/search", {"json": {"partz": []}}, 400, "UNKNOWN_FIELD", "partz"),
        ("POST", "/v1/collections/c/search", {"content": b"{"}, 415, "UNSUPPORTED_MEDIA_TYPE", "content-type"),
        (
            "POST",
            "/v1/collections/c/search",
            {"content": b"{", "headers": {"content-type": "application/json"}},
            400,
            "JSON_SYNTAX",
            None,
        ),
        ("GET", "/v1/collections/c/search?topk=3", {}, 400, "UNKNOWN_FIELD", "topk"),
        ("GET", "/v1/collections/c/images?filter={", {}, 400, "JSON_SYNTAX", "filter"),
        ("GET", "/v1/collections/c/images?page_size=x", {}, 400, "INVALID_FIELD", "page_size"),
        ("POST", "/v1/collections/c/search", {"json": {"collection": "d"}}, 400, "INVALID_FIELD", "collection"),
        ("PATCH", "/v1/collections/c/images/i", {"json": {"id": "j"}}, 400, "INVALID_FIELD", "id"),
        ("POST", "/v1/collections/c/images", {}, 415, "UNSUPPORTED_MEDIA_TYPE", "content-type"),
        ("POST", "/v1/collections", {"files": {"a": b"b"}}, 415, "UNSUPPORTED_MEDIA_TYPE", "content-type"),
        ("POST", "/v1/collections/c/images", {"files": {"nothing": b"x"}}, 400, "UNKNOWN_FIELD", "nothing"),
        ("GET", "/v1/collections/c/search?text=a&top_k=0&top_k=9", {}, 400, "INVALID_FIELD", "top_k"),
        ("POST", "/v1/collections/c/images", {"files": [("file", b"a"), ("file", b"b")]}, 400, "INVALID_FIELD", "file"),
        ("POST", "/v1/collections/c/images", {"files": [("file", b"a"), ("data", b"b")]}, 400, "INVALID_FIELD", "data"),
        (
            "POST",
            "/v1/collections/c/images",
            {"files": [("title", (None, b"a")), ("image.title", (None, b"b"))]},
            400,
            "INVALID_FIELD",
            "image.title",
        ),
        (
            "POST",
            "/v1/collections/c/search",
            {"files": [("request", (None, b"{}")), ("request", (None, b"{}"))]},
            400,
            "INVALID_FIELD",
            "request",
        ),
        (
            "POST",
            "/v1/collections/c/search",
            {"content": b'{"top_k": %s}' % (b"9" * 5000), "headers": {"content-type": "application/json"}},
            400,
            "JSON_SYNTAX",
            None,
        ),
        (
            "POST",
            "/v1/collections/c/search",
            {"content": b'{"\\ud800": 1}', "headers": {"content-type": "application/json"}},
            400,
            "UNKNOWN_FIELD",
            "\\ud800",
        ),
        ("GET", "/v1/model", {"headers": {"x-request-timeout": "-1"}}, 400, "INVALID_FIELD", "x-request-timeout"),
        ("GET", "/v1/model", {"headers": {"x-request-timeout": "601"}}, 400, "INVALID_FIELD", "x-request-timeout"),
        ("GET", "/v1/model", {"headers": {"x-request-timeout": "soon"}}, 400, "INVALID_FIELD", "x-request-timeout"),
    ],
)
async def test_what_is_wrong_is_named(
    gateway: Gateway, case: tuple[str, str, dict[str, Any], int, str, str | None]
) -> None:
    verb, address, options, status, reason, field = case
    response = await gateway.http.request(verb, address, **options)
    problem = response.json()
    assert (response.status_code, problem["reason"], problem.get("field")) == (status, reason, field), problem
    assert not gateway.recorder.requests


async def test_fields_are_named_as_the_caller_sent_them(gateway: Gateway) -> None:
    gateway.recorder.answers["CreateImage"] = InvalidArgument("too long", field="image.title")
    response = await gateway.http.post("/v1/collections/c/images", json={"title": "t"})
    assert response.json()["field"] == "title"


async def test_deadlines_are_passed_on(gateway: Gateway) -> None:
    await gateway.http.get("/v1/model")
    await gateway.http.get("/v1/model", headers={"x-request-timeout": "2.5"})
    by_default, asked = gateway.recorder.seconds_left
    assert 50 < by_default < 61
    assert 1 < asked < 3


async def test_a_deadline_that_passes_is_504(gateway: Gateway) -> None:
    gateway.recorder.answers["GetModel"] = lambda: asyncio.sleep(30)
    response = await gateway.http.get("/v1/model", headers={"x-request-timeout": "0.1"})
    assert (response.status_code, response.json()["reason"]) == (504, "DEADLINE_EXCEEDED")


async def test_a_service_that_is_not_there_is_503(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        await gateway.stop()
        response = await gateway.http.get("/v1/model", headers={"x-request-timeout": "10"})
    assert response.status_code == 503, response.text
    assert response.json()["detail"] == "the embedder does not answer; try again in a moment"


async def test_a_caller_who_goes_away_ends_the_call(gateway: Gateway) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> Message:
        started.set()
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()
        raise AssertionError

    gateway.recorder.answers["GetModel"] = wait
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await started.wait()
        return {"type": "http.disconnect"}

    async def send(_message: dict[str, Any]) -> None:
        pass

    transport = gateway.http._transport
    assert isinstance(transport, httpx.ASGITransport)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/v1/model",
        "raw_path": b"/v1/model",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await transport.app(scope, receive, send)  # type: ignore[arg-type]
    await asyncio.wait_for(ended.wait(), 5)


async def test_services_know_a_calls_length_and_lane_before_they_read_it(gateway: Gateway) -> None:
    await gateway.http.post("/v1/collections/c/images", files={"file": ("a", bytes(1000))})
    await gateway.http.get("/v1/collections/c/search", params={"text": "a", "lane": "bulk"})
    await gateway.http.get("/v1/collections/c/search", params={"text": "a"})
    for request, told in zip(gateway.recorder.requests, gateway.recorder.metadata, strict=True):
        assert told["saccade-bytes"] == str(request.ByteSize())
    assert [told.get("saccade-lane") for told in gateway.recorder.metadata] == [None, "bulk", None]
