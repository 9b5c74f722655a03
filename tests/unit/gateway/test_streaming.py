import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from saccade.common.v1 import types_pb2
from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.errors import FailedPrecondition, Unavailable
from services.gateway import streaming
from services.gateway.backends import INGEST
from services.gateway.transcode import fill, parse_json

from .conftest import BAD, Gateway, running_gateway

ADDRESS = "/v1/collections/c/images:stream"
NDJSON = {"content-type": "application/x-ndjson"}


def line(key: str, data: bytes = b"picture", **create: Any) -> bytes:
    image = {"data": base64.b64encode(data).decode()}
    return json.dumps({"key": key, "create": {"image": image, **create}}).encode() + b"\n"


def results(text: str) -> dict[str, dict[str, Any]]:
    return {item["key"]: item for item in map(json.loads, text.splitlines())}


async def test_each_line_has_a_result_line(gateway: Gateway) -> None:
    body = line("a") + b"\n" + line("b", BAD) + line("c").rstrip(b"\n")
    response = await gateway.http.post(f"{ADDRESS}?wait_for=durable", content=body, headers=NDJSON)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson")
    found = results(response.text)
    assert found["a"]["created"]["image"]["id"] == found["c"]["created"]["image"]["id"] == "made"
    assert found["b"]["error"]["code"] == 3
    asked = gateway.recorder.requests[0]
    assert isinstance(asked, pb.StreamImagesRequest)
    assert (asked.create.collection, asked.create.wait_for) == ("c", types_pb2.IMAGE_STATE_DURABLE)


async def test_lines_that_can_not_be_read_fail_alone(gateway: Gateway) -> None:
    body = b"{\n" + line("other", collection="d") + b'{"key": "field", "creat": {}}\n' + line("good")
    found = results((await gateway.http.post(ADDRESS, content=body, headers=NDJSON)).text)
    assert found["line 1"]["error"]["reason"] == "JSON_SYNTAX"
    assert found["other"]["error"]["field"] == "create.collection"
    assert (found["field"]["error"]["reason"], found["field"]["error"]["field"]) == ("UNKNOWN_FIELD", "creat")
    assert "created" in found["good"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (b'{"key": "w", "create": {"image": {"title": "\\ud800"}}}', "create.image.title"),
        (b'{"key": "w", "create": {"image": {"\\ud800": 1}}}', "create.image.\\ud800"),
        (b'{"key": "w", "create": {"wait_for": "\\ud800"}}', "create.wait_for"),
        (b'{"key": "w", "create": {"wait_for": %s}}' % (b"9" * 5000), ""),
        (b'{"key": "w", "create": {"image": {"metadata": {"n": %s}}}}' % (b"9" * 400), "create.image.metadata"),
        (b'{"key": "w", "create": ' + b"[" * 100_000, ""),
    ],
    ids=lambda value: value[-30:],
)
async def test_no_line_can_hold_up_the_others(tmp_path: Path, wrong: bytes, field: str) -> None:
    async with running_gateway(tmp_path, max_requests=1) as gateway:
        body = line("before") + wrong + b"\n" + line("after")
        for _ in range(2):
            async with asyncio.timeout(10):
                response = await gateway.http.post(ADDRESS, content=body, headers=NDJSON)
            found = results(response.text)
            assert len(found) == 3
            assert "created" in found.pop("before")
            assert "created" in found.pop("after")
            ((_, failed),) = found.items()
            assert (failed["error"]["code"], failed["error"]["field"]) == (3, field)


async def test_a_body_that_breaks_in_unforeseen_ways_ends_the_stream(gateway: Gateway) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield line("a")
        raise LookupError("nobody thought of this")

    async with asyncio.timeout(10):
        response = await gateway.http.post(ADDRESS, content=body(), headers=NDJSON)
    found = results(response.text)
    assert "created" in found["a"]
    assert (found[""]["error"]["code"], found[""]["error"]["reason"]) == (13, "INTERNAL")
    assert "nobody" not in response.text


async def test_a_line_that_fails_in_unforeseen_ways_fails_alone(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(raw: bytes) -> Any:
        if b"wrong" in raw:
            raise LookupError("nobody thought of this")
        return parse_json(raw)

    monkeypatch.setattr(streaming, "parse_json", parse)
    body = line("wrong") + line("good")
    async with asyncio.timeout(10):
        found = results((await gateway.http.post(ADDRESS, content=body, headers=NDJSON)).text)
    assert (found["line 1"]["error"]["code"], found["line 1"]["error"]["reason"]) == (13, "INTERNAL")
    assert "created" in found["good"]


async def test_lines_are_read_beside_the_event_loop(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """One may be as long as a body, and base64 of 60 MB takes as long to read as its JSON."""
    threads: set[int] = set()

    def noted(message: Message, value: Any) -> None:
        threads.add(threading.get_ident())
        fill(message, value)

    monkeypatch.setattr(streaming, "fill", noted)
    await gateway.http.post(ADDRESS, content=line("a"), headers=NDJSON)
    assert threads
    assert threading.get_ident() not in threads


async def test_a_call_that_breaks_off_says_so(gateway: Gateway) -> None:
    """Its channel closes while the caller waits for results, as at the gateway's end."""
    backends = gateway.backends

    async def requests() -> AsyncIterator[pb.StreamImagesRequest]:
        yield pb.StreamImagesRequest(key="a")
        await asyncio.Event().wait()

    async with asyncio.timeout(10):
        with pytest.raises(Unavailable, match="broke off"):
            async for _ in backends.stream(INGEST, "StreamImages", requests(), 30):
                await backends.close()


async def test_items_without_a_key_are_keyed_by_their_place(gateway: Gateway) -> None:
    """An empty key is the last line's of a stream that broke off."""
    lines = line("", BAD) + b"\n" + line("b") + line("")
    found = results((await gateway.http.post(ADDRESS, content=lines, headers=NDJSON)).text)
    assert {key: "created" in item for key, item in found.items()} == {"line 1": False, "b": True, "line 3": True}

    head = b'Content-Disposition: form-data; name="file"; filename='
    form = b'--x\r\n%s"a"\r\n\r\n1\r\n--x\r\n%s""\r\n\r\nbad\r\n--x--\r\n' % (head, head)
    kind = {"content-type": "multipart/form-data; boundary=x"}
    found = results((await gateway.http.post(ADDRESS, content=form, headers=kind)).text)
    assert {key: "created" in item for key, item in found.items()} == {"a": True, "part 2": False}


async def test_the_files_of_a_form_are_keyed_by_their_names(gateway: Gateway) -> None:
    files = [("file", ("a.png", b"picture")), ("file", ("b.png", BAD)), ("file", ("c.png", b"another"))]
    response = await gateway.http.post(ADDRESS, files=files, data={"title": "t"})
    found = results(response.text)
    assert {key: "created" in item for key, item in found.items()} == {
        "a.png": True,
        "b.png": False,
        "c.png": True,
        "title": False,
    }
    sources = {request.create.image.source for request in gateway.recorder.requests}  # type: ignore[attr-defined]
    assert sources == {"a.png", "b.png", "c.png"}


async def test_a_body_may_be_longer_than_any_limit_on_one_item(tmp_path: Path) -> None:
    async def body() -> AsyncIterator[bytes]:
        for number in range(40):
            yield line(str(number), bytes(1000))

    async with running_gateway(tmp_path, max_body_bytes=4000, max_buffered_bytes=6000) as gateway:
        response = await gateway.http.post(ADDRESS, content=body(), headers=NDJSON)
    assert len(results(response.text)) == 40


async def test_an_item_that_is_too_long_ends_the_stream_after_those_before(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, max_body_bytes=4000) as gateway:
        body = line("small") + line("large", bytes(5000)) + line("never")
        found = results((await gateway.http.post(ADDRESS, content=body, headers=NDJSON)).text)
    assert set(found) == {"small", ""}
    assert found[""]["error"]["reason"] == "BODY_TOO_LARGE"


async def test_what_ends_the_call_is_the_last_line(gateway: Gateway) -> None:
    gateway.recorder.answers["StreamImages"] = FailedPrecondition("the disk is full", reason="DISK_FULL")
    response = await gateway.http.post(ADDRESS, content=line("a"), headers=NDJSON)
    last = json.loads(response.text.splitlines()[-1])
    assert (last["error"]["code"], last["error"]["reason"]) == (9, "DISK_FULL")


async def test_parameters_and_types_are_checked_before_anything_is_read(gateway: Gateway) -> None:
    twice = await gateway.http.post(f"{ADDRESS}?replace=0&replace=1", content=b"", headers=NDJSON)
    unknown = await gateway.http.post(f"{ADDRESS}?wait=1", content=b"", headers=NDJSON)
    plain = await gateway.http.post(ADDRESS, content=b"", headers={"content-type": "text/plain"})
    assert (unknown.status_code, unknown.json()["field"]) == (400, "wait")
    assert (twice.status_code, twice.json()["field"]) == (400, "replace")
    assert plain.status_code == 415
