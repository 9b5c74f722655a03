"""A real server with the toy models."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from saccade.channel import channel_options
from saccade.embedder.v1 import embedder_service_pb2, embedder_service_pb2_grpc
from services.common.rpc import Server
from services.common.settings import GrpcSettings
from services.embedder.engines import Engines
from services.embedder.models.base import Encoder, Segmenter
from services.embedder.models.toy import ToyEncoder, ToySegmenter
from services.embedder.servicer import EmbedderServicer
from services.embedder.settings import EmbedderSettings


@dataclass(frozen=True)
class Served:
    """A running embedder."""

    stub: "embedder_service_pb2_grpc.EmbedderServiceAsyncStub"
    engines: Engines
    server: Server
    address: str


@asynccontextmanager
async def serving(
    encoder: Encoder | None = None,
    segmenter: Segmenter | None = None,
    *more: Encoder,
    loaded: bool = True,
    **settings: Any,
) -> AsyncIterator[Served]:
    """Serve the toy encoder, or another, and more of them, on a free port."""
    engines = Engines(EmbedderSettings(**settings), [encoder or ToyEncoder(), *more], segmenter)
    server = Server(GrpcSettings(listen="127.0.0.1:0", max_call_s=30, drain_s=1, reflection=False))
    servicer = EmbedderServicer()
    descriptor = embedder_service_pb2.DESCRIPTOR.services_by_name["EmbedderService"]
    server.add(descriptor, embedder_service_pb2_grpc.add_EmbedderServiceServicer_to_server, servicer)
    port = await server.start()
    await engines.start()
    if loaded:
        servicer.serve(engines)
    await server.set_ready(True)
    address = f"127.0.0.1:{port}"
    try:
        async with grpc.aio.insecure_channel(f"dns:///{address}", options=channel_options()) as channel:
            yield Served(embedder_service_pb2_grpc.EmbedderServiceStub(channel), engines, server, address)
    finally:
        await server.stop()
        await engines.close()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(segmenter=ToySegmenter()) as running:
        yield running
