"""What is refused at the door, and what a caller's credential lets it do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from structlog.testing import capture_logs

from saccade.embedder.v1 import embedder_service_pb2 as embedder_pb
from saccade.ingest.v1 import ingest_service_pb2 as ingest_pb
from saccade.keys import create_key
from services.common.access.authenticator import Authenticator
from services.common.access.keys import KeyRing
from services.common.errors import Overloaded
from services.gateway.admission import Room

from .conftest import Gateway, running_gateway

PEER_KEY = "p" * 32


class Keys:
    """A file of keys, and who knows them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.json"

    def make(self, name: str, scope: str = "read", *collections: str, **more: Any) -> dict[str, str]:
        key, _ = create_key(self.path, name, scope=scope, collections=collections or ("*",), **more)
        return {"authorization": f"Bearer {key}"}

    def authenticator(self) -> Authenticator:
        return Authenticator(keys=KeyRing(str(self.path)), peer_keys=(PEER_KEY,))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def held(gateway: Gateway, rpc: str, answer: Message) -> tuple[asyncio.Event, Callable[[], None]]:
    """Make a call wait: an event that it has begun, and what lets it go."""
    started, release = asyncio.Event(), asyncio.Event()

    async def wait() -> Message:
        started.set()
        await release.wait()
        return answer

    gateway.recorder.answers[rpc] = wait
    return started, release.set


async def test_the_callers_own_credential_goes_along_with_its_calls(tmp_path: Path, keys: Keys) -> None:
    caller = keys.make("writer", "write")
    async with running_gateway(tmp_path / "objects", authenticator=keys.authenticator()) as gateway:
        assert (await gateway.http.get("/v1/collections/c", headers=caller)).status_code == 200
        lines = b'{"create": {"image": {"id": "a", "data": "aGk="}}}\n'
        sent = {"content-type": "application/x-ndjson", **caller}
        stream = await gateway.http.post("/v1/collections/c/images:stream", content=lines, headers=sent)
        assert stream.status_code == 200
        assert [each["authorization"] for each in gateway.recorder.metadata] == [caller["authorization"]] * 2


async def test_without_authentication_credentials_are_only_passed_on(gateway: Gateway) -> None:
    assert (await gateway.http.get("/v1/model")).status_code == 200
    assert (await gateway.http.get("/v1/model", headers={"authorization": "Basic abc"})).status_code == 200
    assert [each.get("authorization") for each in gateway.recorder.metadata] == [None, "Basic abc"]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "CREDENTIAL_MISSING"),
        ([("authorization", "Basic YTpi")], "CREDENTIAL_MALFORMED"),
        ([("authorization", "Bearer sk_nobody")], "CREDENTIAL_INVALID"),
        ([("authorization", "Bearer \xe9")], "CREDENTIAL_MALFORMED"),
        ([("authorization", f"Bearer {PEER_KEY}")], "CREDENTIAL_INVALID"),
        ([("authorization", "Bearer a"), ("authorization", "Bearer b")], "CREDENTIAL_MALFORMED"),
    ],
)
async def test_who_is_not_known_is_told_so(
    tmp_path: Path, keys: Keys, headers: list[tuple[str, str]], reason: str
) -> None:
    keys.make("somebody")
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    async with running_gateway(tmp_path / "objects", authenticator=keys.authenticator()) as gateway:
        for path in ("/v1/model", "/v1/nothing", "/nothing"):
            refused = await gateway.http.get(path, headers=raw)
            assert (refused.status_code, refused.json()["reason"]) == (401, reason)
            assert refused.headers["www-authenticate"] == "Bearer"
        assert gateway.recorder.requests == []


async def test_what_shows_nothing_of_anybody_is_open(tmp_path: Path, keys: Keys) -> None:
    keys.make("somebody")
    async with running_gateway(tmp_path / "objects", authenticator=keys.authenticator()) as gateway:
        await gateway.objects.put("a", b"\x89PNG\r\n\x1a\n")
        for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/static/app.js", "/docs/ui/swagger-ui.css"):
            assert (await gateway.http.get(path)).status_code == 200, path
        assert (await gateway.http.get(await gateway.objects.presign("a"))).status_code == 200
        for path in ("/static/../v1/model", "/static/%2e%2e/v1/model", "//v1/model", "/docs/ui/../../v1/model"):
            assert (await gateway.http.get(path)).status_code in (401, 404), path
        assert gateway.recorder.requests == []


async def test_a_body_is_not_read_for_those_who_may_not_send_it(tmp_path: Path, keys: Keys) -> None:
    reader, other = keys.make("reader"), keys.make("other", "write", "d")

    read: list[int] = []

    async def unread() -> AsyncIterator[bytes]:
        read.append(1)
        yield b"{}"

    async with running_gateway(tmp_path / "objects", authenticator=keys.authenticator()) as gateway:
        for caller, reason in ((reader, "SCOPE_TOO_SMALL"), (other, "COLLECTION_DENIED")):
            headers = {"content-type": "application/json", **caller}
            refused = await gateway.http.post("/v1/collections/c/images", content=unread(), headers=headers)
            assert (refused.status_code, refused.json()["reason"]) == (403, reason)
    assert read == []


async def test_a_refused_change_is_in_the_audit_log(tmp_path: Path, keys: Keys) -> None:
    caller = keys.make("other", "write", "d")
    async with running_gateway(tmp_path / "objects", authenticator=keys.authenticator()) as gateway:
        with capture_logs() as logs:
            await gateway.http.delete("/v1/collections/c/images/a", headers=caller)
            await gateway.http.delete("/v1/collections/d/images/a", headers=caller)
            await gateway.http.get("/v1/collections/c", headers=caller)
    found = [line for line in logs if line["event"] == "audit"]
    assert [(line["principal"], line["collections"], line["outcome"]) for line in found] == [
        ("other", ["c"], "PERMISSION_DENIED")
    ]
    assert [line.get("caller") for line in logs if line["event"] == "request"] == ["key 'other'"] * 3


async def test_answers_are_cut_to_what_a_caller_may_see(tmp_path: Path, keys: Keys) -> None:
    caller = keys.make("team", "read", "team_*")
    async with running_gateway(tmp_path / "objects", authenticator=keys.authenticator()) as gateway:
        found = [ingest_pb.Collection(name=name) for name in ("team_a", "secret", "team_b")]
        gateway.recorder.answers["ListCollections"] = ingest_pb.ListCollectionsResponse(collections=found)
        listed = await gateway.http.get("/v1/collections", headers=caller)
    assert [each["name"] for each in listed.json()["collections"]] == ["team_a", "team_b"]


async def test_a_key_makes_so_many_calls_a_second(tmp_path: Path, keys: Keys) -> None:
    slow, other = keys.make("slow", calls_per_second=0.001), keys.make("other")
    async with running_gateway(tmp_path / "objects", authenticator=keys.authenticator()) as gateway:
        statuses = [(await gateway.http.get("/v1/model", headers=slow)).status_code for _ in range(2)]
        refused = await gateway.http.get("/v1/model", headers=slow)
        assert (await gateway.http.get("/v1/model", headers=other)).status_code == 200
    assert statuses == [200, 429]
    assert refused.json()["reason"] == "RATE_LIMITED"
    assert 900 <= int(refused.headers["retry-after"]) <= 1000


async def test_one_key_does_not_take_all_places(tmp_path: Path, keys: Keys) -> None:
    one, other = keys.make("one"), keys.make("other")
    settings = {"max_requests": 3, "max_requests_per_key": 1}
    async with running_gateway(tmp_path / "objects", authenticator=keys.authenticator(), **settings) as gateway:
        started, release = held(gateway, "GetModel", embedder_pb.GetModelResponse())
        first = asyncio.ensure_future(gateway.http.get("/v1/model", headers=one))
        await asyncio.wait_for(started.wait(), 30)
        refused = await gateway.http.get("/v1/collections", headers=one)
        assert (await gateway.http.get("/v1/collections", headers=other)).status_code == 200
        release()
        assert (await first).status_code == 200
        assert (await gateway.http.get("/v1/collections", headers=one)).status_code == 200
    assert (refused.status_code, refused.json()["reason"]) == (429, "TOO_MANY_OF_KEY")
    assert refused.headers["retry-after"] == "1"


async def test_downloads_have_places_of_their_own(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, max_downloads=1, max_requests=1) as gateway:
        await gateway.objects.put("a", b"1")
        url = await gateway.objects.presign("a")
        started, release = held(gateway, "GetModel", embedder_pb.GetModelResponse())
        call = asyncio.ensure_future(gateway.http.get("/v1/model"))
        await asyncio.wait_for(started.wait(), 30)
        assert (await gateway.http.get(url)).status_code == 200
        assert (await gateway.http.get("/v1/model")).status_code == 429
        release()
        assert (await call).status_code == 200


def test_places_are_given_back_also_where_there_was_none_for_the_name() -> None:
    room = Room(1, per_name=1, what="requests")
    with ExitStack() as first, pytest.raises(Overloaded):
        first.enter_context(room.place_of("a"))
        with ExitStack() as second:
            second.enter_context(room.place())
            second.enter_context(room.place_of("a"))
    with room.place(), room.place_of("a"), pytest.raises(Overloaded), room.place():
        raise AssertionError("there is no place")


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({f"x-{number}": "a" for number in range(101)}, 431, "HEAD_TOO_LARGE"),
        ({"x-long": "a" * 70_000}, 431, "HEAD_TOO_LARGE"),
        ({"content-length": "3", "transfer-encoding": "chunked"}, 400, "HTTP_SYNTAX"),
    ],
)
async def test_heads_have_limits(gateway: Gateway, headers: dict[str, str], status: int, reason: str) -> None:
    for path in ("/v1/model", "/", "/healthz"):
        refused = await gateway.http.get(path, headers=headers)
        assert (refused.status_code, refused.json()["reason"]) == (status, reason)


async def test_the_address_counts_as_well(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, max_head_bytes=2000) as gateway:
        assert (await gateway.http.get("/v1/collections/c/search", params={"text": "a" * 1000})).status_code == 200
        assert (await gateway.http.get("/v1/collections/c/search", params={"text": "a" * 2000})).status_code == 431


async def test_every_answer_has_an_id(gateway: Gateway) -> None:
    given = {"x-request-id": "my-request.1"}
    for path in ("/v1/model", "/nothing", "/"):
        assert (await gateway.http.get(path, headers=given)).headers["x-request-id"] == "my-request.1"
        made = (await gateway.http.get(path, headers={"x-request-id": "no\ttabs"})).headers["x-request-id"]
        assert len(made) == 32
    refused = await gateway.http.get("/v1/model", headers={"host": "evil.test", **given})
    assert (refused.status_code, refused.json()["request_id"]) == (421, "my-request.1")


async def test_answers_of_the_api_are_kept_by_nobody(gateway: Gateway) -> None:
    assert (await gateway.http.get("/v1/model")).headers["cache-control"] == "no-store"
    assert (await gateway.http.get("/v1/nothing")).headers["cache-control"] == "no-store"
