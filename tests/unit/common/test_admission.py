"""Admission in front of a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from saccade.channel import BULK_METADATA, BYTES_KEY, MAX_MESSAGE_BYTES
from saccade.embedder.v1 import embedder_service_pb2 as pb
from saccade.embedder.v1 import embedder_service_pb2_grpc as pb_grpc
from saccade.errors import api_error
from saccade.keys import create_key
from services.common.admission import Admission
from services.common.budget import ByteBudget
from services.common.domain import Lane
from services.common.errors import NotFound
from services.common.gate import Gate
from services.common.rpc import Server
from services.common.settings import GrpcSettings

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["EmbedderService"]
SEEN_BYTES = 1 << 20


class Servicer(pb_grpc.EmbedderServiceServicer):
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.leave = asyncio.Event()

    async def EmbedTexts(self, request: pb.EmbedTextsRequest, context: Any) -> pb.EmbedTextsResponse:  # noqa: N802
        self.begun += 1
        if list(request.texts) == ["fail"]:
            raise NotFound("no such thing")
        await self.leave.wait()
        return pb.EmbedTextsResponse(fingerprint="f")


@asynccontextmanager
async def serving(admission: Admission, **settings: Any) -> AsyncIterator[tuple[Servicer, Any, grpc.aio.Channel]]:
    server = Server(GrpcSettings(listen="127.0.0.1:0", drain_s=0.0, **settings))
    servicer = Servicer()  # type: ignore[abstract]
    server.add(DESCRIPTOR, pb_grpc.add_EmbedderServiceServicer_to_server, servicer)
    server.admit(DESCRIPTOR, admission)
    await server.start()
    try:
        options = [("grpc.max_send_message_length", MAX_MESSAGE_BYTES)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
            yield servicer, pb_grpc.EmbedderServiceStub(channel), channel
    finally:
        servicer.leave.set()
        await server.stop()


def texts(*words: str, lane: "pb.Lane.ValueType" = pb.LANE_UNSPECIFIED) -> pb.EmbedTextsRequest:
    return pb.EmbedTextsRequest(texts=words or ("a",), lane=lane)


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - counts have no event
            await asyncio.sleep(0.005)


async def test_a_full_house_refuses_with_a_time_to_come_back() -> None:
    gate = Gate("test", places=1, waiting=0)
    async with serving(Admission(gate)) as (servicer, stub, _):
        inside = asyncio.ensure_future(stub.EmbedTexts(texts(), timeout=60))
        await until(lambda: servicer.begun == 1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.EmbedTexts(texts(), timeout=60)
        told = api_error(caught.value)
        assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert told.retry_after_s > 0
        assert servicer.begun == 1
        servicer.leave.set()
        assert (await inside).fingerprint == "f"
        assert (await stub.EmbedTexts(texts(), timeout=60)).fingerprint == "f"


async def test_bulk_calls_are_known_before_and_after_they_are_read() -> None:
    gate = Gate("test", places=2, waiting=0, bulk_share=0.5)
    bulk = Admission(gate, is_bulk=lambda request: request.lane == pb.LANE_BULK)
    async with serving(bulk) as (servicer, stub, _):
        first = asyncio.ensure_future(stub.EmbedTexts(texts(lane=pb.LANE_BULK), timeout=60))
        await until(lambda: servicer.begun == 1)
        assert gate._inside == {Lane.INTERACTIVE: 0, Lane.BULK: 1}
        for told in ({"metadata": BULK_METADATA}, {}):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.EmbedTexts(texts(lane=pb.LANE_BULK), timeout=60, **told)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        person = asyncio.ensure_future(stub.EmbedTexts(texts(), timeout=60))
        await until(lambda: servicer.begun == 2)
        servicer.leave.set()
        await asyncio.gather(first, person)
    assert sum(gate._inside.values()) == 0


async def test_what_waits_is_not_read() -> None:
    gate, budget = Gate("test", places=1, waiting=8), ByteBudget("test", 64 * SEEN_BYTES)
    async with serving(Admission(gate, budget, largest=32 * SEEN_BYTES)) as (servicer, stub, _):
        inside = asyncio.ensure_future(stub.EmbedTexts(texts("a" * SEEN_BYTES), timeout=60))
        await until(lambda: servicer.begun == 1)
        assert SEEN_BYTES < budget.held_bytes < 2 * SEEN_BYTES
        waiting = asyncio.ensure_future(stub.EmbedTexts(texts("b" * SEEN_BYTES), timeout=60))
        await until(lambda: gate.busy and any(gate._queues.values()))
        assert budget.held_bytes < 2 * SEEN_BYTES
        servicer.leave.set()
        assert [(await call).fingerprint for call in (inside, waiting)] == ["f", "f"]
    assert budget.held_bytes == 0


async def test_a_request_takes_as_much_as_it_says_until_it_is_read() -> None:
    gate, budget = Gate("test", places=4, waiting=0), ByteBudget("test", 64 * SEEN_BYTES)
    async with serving(Admission(gate, budget, largest=32 * SEEN_BYTES)) as (servicer, stub, channel):
        method = "/saccade.embedder.v1.EmbedderService/EmbedTexts"
        # It says its length, and does not come.
        slow: Any = channel.stream_unary(method)(timeout=60, metadata=((BYTES_KEY, str(SEEN_BYTES)),))
        await until(lambda: budget.held_bytes == SEEN_BYTES)
        silent: Any = channel.stream_unary(method)(timeout=60, metadata=((BYTES_KEY, "many"),))
        await until(lambda: budget.held_bytes == 33 * SEEN_BYTES)
        slow.cancel()
        silent.cancel()
        await until(lambda: budget.held_bytes == 0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.EmbedTexts(texts("a" * 100), timeout=60, metadata=((BYTES_KEY, "50"),))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert servicer.begun == 0
    assert budget.held_bytes == 0


async def test_what_a_call_fails_with_comes_through() -> None:
    async with serving(Admission(Gate("test", places=1, waiting=0))) as (_, stub, channel):
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.EmbedTexts(texts("fail"), timeout=60)
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        raw: Any = channel.unary_unary("/saccade.embedder.v1.EmbedderService/EmbedTexts")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(b"\xff\xff\xff", timeout=60)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_caller_that_leaves_gives_its_place_back() -> None:
    gate = Gate("test", places=1, waiting=2)
    async with serving(Admission(gate)) as (servicer, stub, _):
        inside = stub.EmbedTexts(texts(), timeout=60)
        await until(lambda: servicer.begun == 1)
        waiting = stub.EmbedTexts(texts(), timeout=60)
        await until(lambda: any(gate._queues.values()))
        waiting.cancel()
        await until(lambda: not any(gate._queues.values()))
        inside.cancel()
        await until(lambda: sum(gate._inside.values()) == 0)


async def test_strangers_are_told_so_and_hold_no_place(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    key, _ = create_key(keys, "reader", scope="read", collections=["*"])
    gate = Gate("test", places=1, waiting=0)
    async with serving(Admission(gate), auth="keys", keys_file=str(keys)) as (servicer, stub, _):
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.EmbedTexts(texts(), timeout=60)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        servicer.leave.set()
        answer = await stub.EmbedTexts(texts(), timeout=60, metadata=(("authorization", f"Bearer {key}"),))
        assert answer.fingerprint == "f"


async def test_who_finds_no_room_for_its_bytes_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.admission._ROOM_S", 0.05)
    budget = ByteBudget("test", 10)
    held = await budget.take(10)
    async with serving(Admission(Gate("test", places=1, waiting=0), budget, 10)) as (servicer, stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.EmbedTexts(texts(), timeout=60)
        assert api_error(caught.value).retry_after_s > 0
        held.release()
        servicer.leave.set()
        await stub.EmbedTexts(texts(), timeout=60)
    assert budget.held_bytes == 0
