"""A gateway over gRPC servers that record what they are asked."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from starlette.types import ASGIApp

from saccade.ingest.v1 import ingest_service_pb2 as ingest_pb
from services.common.errors import InvalidArgument
from services.common.objects import LocalObjects
from services.common.rpc import ServiceInterceptor
from services.common.status import to_item_error
from services.gateway.app import create_app
from services.gateway.backends import SERVICES, Backends
from services.gateway.guard import Authenticates
from services.gateway.settings import GatewaySettings

BAD = b"bad"
"""Bytes that the recording ingest refuses."""


@dataclass
class Recorder:
    """Serves every call of the contracts: notes the request, and answers as told.

    Attributes:
        requests: Every request, oldest first.
        seconds_left: The deadline that each came with.
        metadata: What came along with each; once for a stream.
        answers: RPC -> what to answer, or to raise; an empty answer where nothing is said.
    """

    requests: list[Message] = field(default_factory=list)
    seconds_left: list[float] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, Message | Exception | Callable[[], Any]] = field(default_factory=dict)

    def handlers(self, service: ServiceDescriptor) -> grpc.GenericRpcHandler:
        made = {method.name: self._handler(method) for method in service.methods}
        return grpc.method_handlers_generic_handler(service.full_name, made)

    def _handler(self, method: MethodDescriptor) -> Any:
        request = message_factory.GetMessageClass(method.input_type)
        answer = message_factory.GetMessageClass(method.output_type)
        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(self._stream, request.FromString, answer.SerializeToString)

        async def behaviour(message: Message, context: Any) -> Message:
            self.requests.append(message)
            self.seconds_left.append(context.time_remaining())
            self.metadata.append(dict(context.invocation_metadata()))
            told = self.answers.get(method.name, answer())
            if isinstance(told, Exception):
                raise told
            return told if isinstance(told, Message) else await told()

        return grpc.unary_unary_rpc_method_handler(behaviour, request.FromString, answer.SerializeToString)

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Message]:
        self.metadata.append(dict(context.invocation_metadata()))
        async for item in requests:
            self.requests.append(item)
            told = self.answers.get("StreamImages")
            if isinstance(told, Exception):
                raise told
            result = ingest_pb.StreamImagesResponse(key=item.key)
            if item.create.image.data == BAD:
                result.error.CopyFrom(to_item_error(InvalidArgument("no image", field="image.data")))
            else:
                result.created.image.id = item.create.image.id or "made"
            yield result


@dataclass
class Gateway:
    """A gateway that tests talk to, and what its services were asked."""

    app: ASGIApp
    folder: Path
    http: httpx.AsyncClient
    backends: Backends
    recorder: Recorder
    objects: LocalObjects
    health: health.aio.HealthServicer
    stop: Callable[[], Awaitable[None]]


@asynccontextmanager
async def running_gateway(
    folder: Path, *, authenticator: Authenticates | None = None, **settings: Any
) -> AsyncIterator[Gateway]:
    recorder, healthy = Recorder(), health.aio.HealthServicer()
    server = grpc.aio.server(interceptors=[ServiceInterceptor(60)])
    for service in SERVICES:
        server.add_generic_rpc_handlers((recorder.handlers(service),))
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    target = f"dns:///127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    told = {"objects_url": f"file://{folder}", "public_url": "http://gateway.test", "idle_timeout_s": 5, **settings}
    chosen = GatewaySettings(**told)
    objects = LocalObjects(chosen, root=str(folder))
    backends = Backends(embedder=target, ingest=target, query=target)
    app = create_app(chosen, backends, objects, authenticator)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test", timeout=30) as http:
        yield Gateway(app, folder, http, backends, recorder, objects, healthy, lambda: server.stop(0))
    await backends.close()
    await objects.close()
    await server.stop(0)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(tmp_path) as running:
        yield running
