import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from saccade.channel import channel_options
from saccade.embedder.v1 import embedder_service_pb2 as pb
from saccade.embedder.v1 import embedder_service_pb2_grpc as pb_grpc
from saccade.errors import api_error
from services.common.deadline import time_left_s
from services.common.errors import InvalidArgument, Unavailable
from services.common.rpc import LIVENESS, Server
from services.common.settings import GrpcSettings

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["EmbedderService"]
Behaviour = Callable[[pb.GetModelRequest], Awaitable[pb.GetModelResponse]]


class Servicer(pb_grpc.EmbedderServiceServicer):
    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:  # noqa: N802 - gRPC's name
        return await self._behaviour(request)


@asynccontextmanager
async def serving(behaviour: Behaviour, *, max_call_s: float = 5.0) -> AsyncIterator[tuple[Server, grpc.aio.Channel]]:
    server = Server(GrpcSettings(listen="127.0.0.1:0", max_call_s=max_call_s, drain_s=2.0))
    server.add(DESCRIPTOR, pb_grpc.add_EmbedderServiceServicer_to_server, Servicer(behaviour))  # type: ignore[abstract]
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"dns:///127.0.0.1:{server.port}", options=channel_options()) as channel:
            yield server, channel
    finally:
        await server.stop()


def handled(code: str) -> float:
    labels = {
        "grpc_type": "unary",
        "grpc_service": "saccade.embedder.v1.EmbedderService",
        "grpc_method": "GetModel",
        "grpc_code": code,
    }
    return REGISTRY.get_sample_value("grpc_server_handled_total", labels) or 0.0


async def answer(request: pb.GetModelRequest) -> pb.GetModelResponse:
    return pb.GetModelResponse(model=request.model)


async def health(channel: grpc.aio.Channel, name: str) -> int:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=5)  # type: ignore[attr-defined]
    return int(answer.status)


async def test_a_server_is_alive_before_it_is_ready() -> None:
    # Not through the balancing channel: that one sends nothing to a server that is not ready.
    async with (
        serving(answer) as (server, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        assert await health(channel, LIVENESS) == health_pb2.HealthCheckResponse.SERVING
        assert await health(channel, "") == health_pb2.HealthCheckResponse.NOT_SERVING
        await server.set_ready(True)
        assert await health(channel, "") == health_pb2.HealthCheckResponse.SERVING
        assert await health(channel, DESCRIPTOR.full_name) == health_pb2.HealthCheckResponse.SERVING


async def test_calls_wait_for_readiness_and_are_counted() -> None:
    before = handled("OK")
    async with serving(answer) as (server, channel):
        call = pb_grpc.EmbedderServiceStub(channel).GetModel(
            pb.GetModelRequest(model="demo"), timeout=5, wait_for_ready=True
        )
        await server.set_ready(True)
        assert (await call).model == "demo"
    assert handled("OK") == before + 1


async def test_an_error_of_ours_arrives_with_its_field() -> None:
    async def refuse(request: pb.GetModelRequest) -> pb.GetModelResponse:
        raise InvalidArgument("no such thing", reason="NOPE", field="model")

    before = handled("INVALID_ARGUMENT")
    async with serving(refuse) as (server, channel):
        await server.set_ready(True)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.EmbedderServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=5, wait_for_ready=True)
    told = api_error(caught.value)
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "NOPE")
    assert told.fields == (("model", "no such thing"),)
    assert handled("INVALID_ARGUMENT") == before + 1


async def test_an_unexpected_error_tells_nothing_of_itself() -> None:
    async def fail(request: pb.GetModelRequest) -> pb.GetModelResponse:
        raise KeyError("/etc/secret")

    async with serving(fail) as (server, channel):
        await server.set_ready(True)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.EmbedderServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=5, wait_for_ready=True)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value.details())


async def test_a_handler_that_hangs_ends_at_the_limit() -> None:
    async def hang(request: pb.GetModelRequest) -> pb.GetModelResponse:
        await asyncio.Event().wait()
        return pb.GetModelResponse()

    async with serving(hang, max_call_s=0.1) as (server, channel):
        await server.set_ready(True)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.EmbedderServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=30, wait_for_ready=True)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_handler_knows_how_long_its_caller_waits() -> None:
    async def tell(request: pb.GetModelRequest) -> pb.GetModelResponse:
        return pb.GetModelResponse(logit_scale=time_left_s(1000))

    async with serving(tell, max_call_s=60) as (server, channel):
        await server.set_ready(True)
        got = await pb_grpc.EmbedderServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=7, wait_for_ready=True)
    assert 0 < got.logit_scale <= 7


async def test_a_call_in_flight_survives_the_drain() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(request: pb.GetModelRequest) -> pb.GetModelResponse:
        entered.set()
        await leave.wait()
        return pb.GetModelResponse(model="done")

    async with serving(slow) as (server, channel):
        await server.set_ready(True)
        call = asyncio.ensure_future(
            _get(pb_grpc.EmbedderServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=5, wait_for_ready=True))
        )
        await entered.wait()
        stopping = asyncio.ensure_future(server.stop())
        leave.set()
        assert (await call).model == "done"
        await stopping


@pytest.mark.parametrize(("retry_after_s", "asked"), [(1.0, 1), (0.0, 4)])
async def test_what_is_away_for_a_while_is_not_asked_again_at_once(retry_after_s: float, asked: int) -> None:
    count = 0

    async def away(request: pb.GetModelRequest) -> pb.GetModelResponse:
        nonlocal count
        count += 1
        raise Unavailable("away", retry_after_s=retry_after_s)

    async with serving(away) as (server, channel):
        await server.set_ready(True)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.EmbedderServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=30, wait_for_ready=True)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert count == asked


async def _get(call: Awaitable[pb.GetModelResponse]) -> pb.GetModelResponse:
    return await call
