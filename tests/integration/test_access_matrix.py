"""Every call of the contracts with every kind of credential, over a real connection to real servers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import SecretStr
from structlog.testing import capture_logs

from saccade.channel import MAX_MESSAGE_BYTES
from saccade.errors import api_error
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from saccade.keys import create_key, revoke_key
from services.common.access.principal import Scope
from services.common.settings import GrpcSettings
from tests.integration.access_support import METHODS, Services, path_of, serving
from tests.unit.common.access.test_policy import EXPECTED, WITHOUT_COLLECTION

# Requests of EXPECTED name the collection `c`.
PEER_KEY: Final = "p" * 40
CHANGES_WHAT_ALL_SHARE: Final = {"PutVocabulary"}
# Their requests name nothing that the server could judge: what the service itself asks is tested with it.
ASKS_ITSELF: Final = {"CancelJob"}


@dataclass(frozen=True)
class Caller:
    """What a kind of caller shows, and what it may."""

    authorization: tuple[str, ...]
    scope: Scope = Scope.NONE
    collections: tuple[str, ...] = ()
    reason: str = ""


@pytest.fixture
def callers(tmp_path: Path) -> dict[str, Caller]:
    path = tmp_path / "keys.json"
    old = datetime(2020, 1, 1, tzinfo=UTC)

    def key(name: str, scope: str, *collections: str, **options: Any) -> str:
        return create_key(path, name, scope=scope, collections=collections, **options)[0]

    callers = {
        f"{scope.name.lower()} {where}": Caller(
            (f"Bearer {key(f'{scope.name}{index}', scope.name.lower(), *collections)}",), scope, collections
        )
        for scope in (Scope.READ, Scope.WRITE, Scope.ADMIN)
        for index, (where, collections) in enumerate(
            {"here": ("c",), "by a pattern": ("x*", "c*"), "elsewhere": ("d",), "everywhere": ("*",)}.items()
        )
    }
    over, gone = key("over", "admin", "*", expires_at=old), key("gone", "admin", "*")
    revoke_key(path, "gone")
    right = callers["admin everywhere"].authorization[0]
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    return callers | {
        "peer": Caller((f"Bearer {PEER_KEY}",), Scope.READ),
        "none": Caller((), reason="CREDENTIAL_MISSING"),
        "empty": Caller(("",), reason="CREDENTIAL_MISSING"),
        "malformed": Caller(("Basic dXNlcjpwYXNz",), reason="CREDENTIAL_MALFORMED"),
        "without scheme": Caller((right.removeprefix("Bearer "),), reason="CREDENTIAL_MALFORMED"),
        "two": Caller((right, right), reason="CREDENTIAL_MALFORMED"),
        "wrong secret": Caller((wrong,), reason="CREDENTIAL_INVALID"),
        "unknown": Caller((f"Bearer sk_{'0' * 12}_{'0' * 64}",), reason="CREDENTIAL_INVALID"),
        "token where none are taken": Caller(("Bearer e30.e30.e30",), reason="CREDENTIAL_INVALID"),
        "expired": Caller((f"Bearer {over}",), reason="CREDENTIAL_EXPIRED"),
        "revoked": Caller((f"Bearer {gone}",), reason="CREDENTIAL_REVOKED"),
    }


@pytest.fixture
async def services(tmp_path: Path, callers: dict[str, Caller]) -> AsyncIterator[Services]:
    def settings() -> GrpcSettings:
        keys_file = str(tmp_path / "keys.json")
        return GrpcSettings(
            listen="127.0.0.1:0", drain_s=1, auth="keys", keys_file=keys_file, peer_key=SecretStr(PEER_KEY)
        )

    async with serving(settings, answer=answer) as running:
        yield running


def answer(method: MethodDescriptor) -> Message:
    """Things of two collections, where the call is about such."""
    if method.name == "ListCollections":
        return ingest.ListCollectionsResponse(collections=[ingest.Collection(name=name) for name in "cd"])
    if method.name == "ListJobs":
        return ingest.ListJobsResponse(jobs=[ingest.Job(id=name, collection=name) for name in "cd"])
    if method.name == "GetJob":
        return ingest.GetJobResponse(job=ingest.Job(id="j", collection="c"))
    return GetMessageClass(method.output_type)()


def expected(method: MethodDescriptor, caller: Caller) -> grpc.StatusCode:
    """What the documents promise, said once more without the code that keeps it."""
    scope, _ = EXPECTED[method.name]
    if caller.reason:
        return grpc.StatusCode.UNAUTHENTICATED
    everywhere = "*" in caller.collections
    here = everywhere or any(each in {"c", "c*"} for each in caller.collections)
    if caller.scope < scope or (method.name in CHANGES_WHAT_ALL_SHARE and not everywhere):
        return grpc.StatusCode.PERMISSION_DENIED
    if not here and (method.name not in WITHOUT_COLLECTION or method.name == "GetJob"):
        return grpc.StatusCode.PERMISSION_DENIED
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_a_call_with_every_kind_of_credential(
    services: Services, callers: dict[str, Caller], method: MethodDescriptor
) -> None:
    wrong: dict[str, tuple[str, str]] = {}
    for kind, caller in callers.items():
        services.reached.clear()
        reason, got = "", grpc.StatusCode.OK
        try:
            await services.call(method, EXPECTED[method.name][1], caller.authorization)
        except grpc.aio.AioRpcError as exc:
            told = api_error(exc)
            got, reason = told.code, told.reason
            assert reason, "a refusal has a reason for programs"
            assert PEER_KEY not in told.message
        want = expected(method, caller)
        if got != want or (caller.reason and reason != caller.reason):
            wrong[kind] = (got.name, want.name)
        # GetJob names no collection: whose its job is, only its answer tells.
        if want != grpc.StatusCode.OK and services.reached and method.name != "GetJob":
            wrong[kind] = ("the handler ran", want.name)
    assert not wrong


async def test_lists_have_what_the_caller_may_see(services: Services, callers: dict[str, Caller]) -> None:
    methods = {method.name: method for method in METHODS}
    for kind, names in (("read here", "c"), ("read elsewhere", "d"), ("read everywhere", "cd"), ("peer", "")):
        shown = callers[kind].authorization
        collections: Any = await services.call(methods["ListCollections"], ingest.ListCollectionsRequest(), shown)
        assert "".join(each.name for each in collections.collections) == names
        jobs: Any = await services.call(methods["ListJobs"], ingest.ListJobsRequest(), shown)
        assert "".join(each.id for each in jobs.jobs) == names


async def test_health_is_open_and_reflection_is_not(services: Services, callers: dict[str, Caller]) -> None:
    async def reflect(authorization: tuple[str, ...]) -> int:
        channel: Any = services.channels["IngestService"]
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        metadata = [("authorization", each) for each in authorization]
        answers = [each async for each in stub.ServerReflectionInfo(iter([asked]), metadata=metadata, timeout=60)]
        return len(answers[0].list_services_response.service)

    stub: Any = health_pb2_grpc.HealthStub(services.channels["IngestService"])
    assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=60)).status == 1
    for kind in ("none", "wrong secret", "expired"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reflect(callers[kind].authorization)
        assert api_error(caught.value).code == grpc.StatusCode.UNAUTHENTICATED
        assert api_error(caught.value).reason == callers[kind].reason
    assert await reflect(callers["read elsewhere"].authorization) >= 3


async def test_a_large_request_is_refused_without_being_read(services: Services) -> None:
    method = next(each for each in METHODS if each.name == "CreateImage")
    request = ingest.CreateImageRequest(collection="c", image=ingest.NewImage(data=bytes(MAX_MESSAGE_BYTES + 1)))
    # Read, it would be refused as too large.
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.call(method, request)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_credential_of_any_length_is_looked_at(services: Services) -> None:
    method = next(each for each in METHODS if each.name == "GetModel")
    for size in (8_000, 8_192, 9_000, 12_000):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await services.call(method, EXPECTED["GetModel"][1], ("Bearer " + "x" * size,))
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_ends_at_the_first_message_that_may_not_be(
    services: Services, callers: dict[str, Caller], tmp_path: Path
) -> None:
    method = next(each for each in METHODS if each.name == "StreamImages")

    async def send(*collections: str) -> AsyncIterator[Message]:
        for name in collections:
            yield ingest.StreamImagesRequest(create=ingest.CreateImageRequest(collection=name))

    async def results(requests: AsyncIterator[Message], shown: tuple[str, ...]) -> tuple[int, grpc.StatusCode]:
        stream: Any = services.channels["IngestService"].stream_stream(
            path_of(method),
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=ingest.StreamImagesResponse.FromString,
        )
        count, call = 0, stream(requests, metadata=[("authorization", each) for each in shown], timeout=60)
        try:
            async for _ in call:
                count += 1
        except grpc.aio.AioRpcError as exc:
            assert api_error(exc).reason
        return count, await call.code()

    writer = callers["write here"].authorization
    assert await results(send("c", "c", "d", "c"), writer) == (2, grpc.StatusCode.PERMISSION_DENIED)
    assert await results(send("c", "c"), writer) == (2, grpc.StatusCode.OK)

    async def revoked_meanwhile() -> AsyncIterator[Message]:
        async for message in send("c"):
            yield message
        revoke_key(tmp_path / "keys.json", "WRITE0")
        # The file is looked at once a second.
        for _ in range(600):
            async for message in send("c"):
                yield message
            await asyncio.sleep(0.1)

    count, code = await results(revoked_meanwhile(), writer)
    assert code == grpc.StatusCode.UNAUTHENTICATED
    assert 1 <= count < 600


async def test_a_caller_who_leaves_a_stream_leaves_a_line_in_the_audit_log(
    services: Services, callers: dict[str, Caller]
) -> None:
    method = next(each for each in METHODS if each.name == "StreamImages")

    async def send() -> AsyncIterator[Message]:
        yield EXPECTED["StreamImages"][1]
        await asyncio.Event().wait()

    with capture_logs() as logs:
        stream: Any = services.channels["IngestService"].stream_stream(
            path_of(method),
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=ingest.StreamImagesResponse.FromString,
        )
        shown = callers["write here"].authorization[0]
        call = stream(send(), metadata=[("authorization", shown)], timeout=60)
        await call.read()
        call.cancel()
        for _ in range(1200):
            if any(log["event"] == "audit" for log in logs):
                break
            await asyncio.sleep(0.05)
    (line,) = (log for log in logs if log["event"] == "audit")
    assert (line["principal"], line["requests"]) == ("WRITE0", 1)
    assert not any(log["log_level"] in {"error", "critical"} for log in logs)


async def test_changes_are_audited_and_nothing_secret_is_logged(services: Services, callers: dict[str, Caller]) -> None:
    methods = {method.name: method for method in METHODS}
    with capture_logs() as logs:
        await services.call(methods["CreateImage"], EXPECTED["CreateImage"][1], callers["write here"].authorization)
        await services.call(methods["StreamImages"], EXPECTED["StreamImages"][1], callers["write here"].authorization)
        await services.call(methods["GetImage"], EXPECTED["GetImage"][1], callers["write here"].authorization)
        for kind in ("read here", "write elsewhere"):
            with pytest.raises(grpc.aio.AioRpcError):
                await services.call(methods["CreateImage"], EXPECTED["CreateImage"][1], callers[kind].authorization)
        with pytest.raises(grpc.aio.AioRpcError):
            await services.call(
                methods["CreateImage"], EXPECTED["CreateImage"][1], callers["wrong secret"].authorization
            )
    lines = [
        (log["principal"], log["call"].rpartition(".")[2], log["outcome"]) for log in logs if log["event"] == "audit"
    ]
    assert lines == [
        ("WRITE0", "CreateImage", "OK"),
        ("WRITE0", "StreamImages", "OK"),
        ("READ0", "CreateImage", "PERMISSION_DENIED"),
        ("WRITE2", "CreateImage", "PERMISSION_DENIED"),
    ]
    first = next(log for log in logs if log["event"] == "audit")
    assert (first["collections"], first["requests"], first["kind"]) == (["c"], 1, "key")
    for caller in callers.values():
        assert not any(shown and shown.rpartition("_")[2] in str(logs) for shown in caller.authorization)


async def test_a_caller_has_its_rate(services: Services, tmp_path: Path) -> None:
    method = next(each for each in METHODS if each.name == "GetModel")
    key, _ = create_key(tmp_path / "keys.json", "slow", scope="read", collections=["*"], calls_per_second=0.001)
    await until_known(services, method, key)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services.call(method, EXPECTED["GetModel"][1], (f"Bearer {key}",))
    told = api_error(caught.value)
    assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert told.retry_after_s > 60


async def until_known(services: Services, method: MethodDescriptor, key: str) -> None:
    """Make one call as soon as the key, which is new, is read."""
    async with asyncio.timeout(60):
        while True:
            try:
                await services.call(method, EXPECTED[method.name][1], (f"Bearer {key}",))
            except grpc.aio.AioRpcError as exc:
                assert exc.code() == grpc.StatusCode.UNAUTHENTICATED
                await asyncio.sleep(0.1)
            else:
                return
