"""The three services behind the gateway: one channel and one stub each."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from saccade.channel import BULK_METADATA, BYTES_KEY
from saccade.embedder.v1 import embedder_service_pb2
from saccade.embedder.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from saccade.ingest.v1 import ingest_service_pb2
from saccade.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from saccade.query.v1 import query_service_pb2
from saccade.query.v1.query_service_pb2 import SEARCH_LANE_BULK, SearchRequest
from saccade.query.v1.query_service_pb2_grpc import QueryServiceStub
from services.common.access.credentials import PLAIN, PeerCredentials
from services.common.errors import Unavailable
from services.common.rpc_client import open_channel, open_probe
from services.gateway.problems import problem_of

__all__ = ["EMBEDDER", "INGEST", "QUERY", "SERVICES", "Backends"]

EMBEDDER: Final = embedder_service_pb2.DESCRIPTOR.services_by_name["EmbedderService"]
INGEST: Final = ingest_service_pb2.DESCRIPTOR.services_by_name["IngestService"]
QUERY: Final = query_service_pb2.DESCRIPTOR.services_by_name["QueryService"]
SERVICES: Final[tuple[ServiceDescriptor, ...]] = (EMBEDDER, INGEST, QUERY)

_NAMES: Final = {EMBEDDER.full_name: "embedder", INGEST.full_name: "ingest service", QUERY.full_name: "query service"}
_STUBS: Final[dict[str, Any]] = {
    EMBEDDER.full_name: EmbedderServiceStub,
    INGEST.full_name: IngestServiceStub,
    QUERY.full_name: QueryServiceStub,
}
READINESS_TIMEOUT_S: Final = 1.0

Metadata = tuple[tuple[str, str], ...]


class Backends:
    """Calls the services. Safe for concurrent use; errors come out as Problem or Unavailable."""

    def __init__(self, *, embedder: str, ingest: str, query: str, peer: PeerCredentials = PLAIN) -> None:
        """Connect in the background to gRPC targets such as `dns:///query:50053`.

        What `peer` shows where a caller shows nothing, every caller could do: give it no key of its own.
        """
        targets = {EMBEDDER.full_name: embedder, INGEST.full_name: ingest, QUERY.full_name: query}
        self._channels = {name: open_channel(target, peer) for name, target in targets.items()}
        self._probes = {name: open_probe(target, peer) for name, target in targets.items()}
        self._asking: asyncio.Future[dict[str, bool]] | None = None
        self._stubs = {name: _STUBS[name](channel) for name, channel in self._channels.items()}

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(channel.close() for channel in (*self._channels.values(), *self._probes.values())))

    async def call(
        self, service: ServiceDescriptor, rpc: str, request: Message, timeout_s: float, metadata: Metadata = ()
    ) -> Message:
        """Make a unary call."""
        made = getattr(self._stubs[service.full_name], rpc)
        try:
            answer: Message = await made(request, timeout=timeout_s, metadata=(*metadata, *_told_of(request)))
        except grpc.RpcError as exc:
            raise problem_of(exc, what=_NAMES[service.full_name]) from exc
        return answer

    async def stream(
        self,
        service: ServiceDescriptor,
        rpc: str,
        requests: AsyncIterable[Message],
        timeout_s: float,
        metadata: Metadata = (),
    ) -> AsyncIterator[Message]:
        """Make a call that streams both ways. What `requests` raises ends it too, as Unavailable."""
        call = getattr(self._stubs[service.full_name], rpc)(requests, timeout=timeout_s, metadata=metadata)
        try:
            async for answer in call:
                yield answer
        except grpc.RpcError as exc:
            raise problem_of(exc, what=_NAMES[service.full_name]) from exc
        except asyncio.CancelledError as exc:
            # gRPC also says so where nobody cancels us: when its channel closes, or when `requests` fails.
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            raise Unavailable(f"the call to the {_NAMES[service.full_name]} broke off; try again in a moment") from exc
        finally:
            call.cancel()

    async def readiness(self) -> dict[str, bool]:
        """Whether each service is ready, by its name. Who asks meanwhile gets the same answer: anybody may ask."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> dict[str, bool]:
        answers = await asyncio.gather(*(self._is_ready(name) for name in self._probes))
        return dict(zip((name.split(".")[1] for name in self._probes), answers, strict=True))

    async def _is_ready(self, name: str) -> bool:
        stub: Any = health_pb2_grpc.HealthStub(self._probes[name])
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=READINESS_TIMEOUT_S)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _told_of(request: Message) -> Metadata:
    """What a service is to know of a call before it reads the request: its length, and whether it may wait."""
    lane = BULK_METADATA if isinstance(request, SearchRequest) and request.lane == SEARCH_LANE_BULK else ()
    return ((BYTES_KEY, str(request.ByteSize())), *lane)
