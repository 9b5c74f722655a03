import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from saccade.common.v1 import types_pb2
from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.errors import FailedPrecondition

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
    unknown = await gateway.http.post(f"{ADDRESS}?wait=1", content=b"", headers=NDJSON)
    plain = await gateway.http.post(ADDRESS, content=b"", headers={"content-type": "text/plain"})
    assert (unknown.status_code, unknown.json()["field"]) == (400, "wait")
    assert plain.status_code == 415
