"""The three services behind one object: Client for plain code, AsyncClient for an event loop.

    with Client() as client:
        client.create_collection("holiday", vocabulary="general")
        for result in client.stream_images(map(NewImage, folder.glob("*.jpg")), collection="holiday"):
            print(result.item.content, result.error or result.image.id)
        answer = client.search("holiday", text="an owl on a branch")

Both have the same methods, one for each function of saccade.calls, with its arguments. A failed call raises ApiError;
a wrong argument that never left raises ValueError, and a file that can not be read OSError.
"""

import asyncio
import copy
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from saccade import calls, job_calls
from saccade.channel import BULK_METADATA, BYTES_KEY, channel_options
from saccade.credentials import bearer
from saccade.embedder.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from saccade.errors import ApiError, api_error
from saccade.ingest.v1.ingest_service_pb2 import CreateImageRequest
from saccade.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from saccade.query.v1.query_service_pb2 import SEARCH_LANE_BULK, SearchRequest
from saccade.query.v1.query_service_pb2_grpc import QueryServiceStub
from saccade.requests import NewImage, Wait
from saccade.streams import upload_async, upload_sync
from saccade.upload import StreamResult, Upload

__all__ = ["DEFAULT_ADDRESSES", "SERVICES", "AsyncClient", "Client"]

SERVICES: Final[tuple[calls.Service, ...]] = ("embedder", "ingest", "query")

DEFAULT_ADDRESSES: Final[dict[calls.Service, str]] = {
    "embedder": "127.0.0.1:50051",
    "ingest": "127.0.0.1:50052",
    "query": "127.0.0.1:50053",
}

_STUBS: Final[dict[calls.Service, Callable[[Any], Any]]] = {
    "embedder": EmbedderServiceStub,
    "ingest": IngestServiceStub,
    "query": QueryServiceStub,
}

P = ParamSpec("P")
R = TypeVar("R")
_Self = TypeVar("_Self", bound="_Base")


class _Base:
    """Addresses and time limits, which both faces share."""

    def __init__(
        self,
        *,
        embedder: str = DEFAULT_ADDRESSES["embedder"],
        ingest: str = DEFAULT_ADDRESSES["ingest"],
        query: str = DEFAULT_ADDRESSES["query"],
        key: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Connect in the background; nothing is sent before the first call.

        Args:
            embedder: host:port, or any gRPC target such as dns:///embedder:50051.
            ingest: The same of the ingest service.
            query: The same of the query service.
            key: API key or token, shown with every call; over plain text only where the network is trusted.
            credentials: For TLS, from `saccade.credentials.tls_credentials`; None: plain text.
            timeout_s: Longest wait for one call, in seconds; see `with_timeout`.
        """
        self._timeout_s = timeout_s
        self._shown = bearer(key)
        addresses: dict[calls.Service, str] = {"embedder": embedder, "ingest": ingest, "query": query}
        self._addresses = addresses
        self._channels = {name: self._open(_target(address), credentials) for name, address in addresses.items()}
        self._stubs = {name: _STUBS[name](channel) for name, channel in self._channels.items()}

    def with_timeout(self: _Self, timeout_s: float) -> _Self:
        """The same client over the same connections, with another longest wait for one call."""
        other = copy.copy(self)
        other._timeout_s = timeout_s
        return other

    def _open(self, target: str, credentials: grpc.ChannelCredentials | None) -> Any:
        raise NotImplementedError

    def _failed(self, service: calls.Service, error: grpc.RpcError) -> ApiError:
        """What a call to a service failed with; where nobody answered, it says who did not."""
        told = api_error(error)
        if told.code == grpc.StatusCode.UNAVAILABLE and not told.reason:
            told.message = f"the {service} service at {self._addresses[service]} does not answer ({told.message})"
        return told

    @property
    def _streaming(self) -> Callable[..., Any]:
        return partial(self._stubs["ingest"].StreamImages, metadata=self._shown)

    def _shown_with(self, request: Any) -> tuple[tuple[str, str], ...]:
        """What a service is to know of a call before it reads the request: who makes it, its lane, and its length."""
        told = self._shown
        if isinstance(request, SearchRequest) and request.lane == SEARCH_LANE_BULK:
            told = (*told, *BULK_METADATA)
        if isinstance(request, CreateImageRequest):
            told = (*told, (BYTES_KEY, str(request.ByteSize())))
        return told

    def _method(self, call: calls.Call[Any]) -> Callable[..., Any]:
        method: Callable[..., Any] = getattr(self._stubs[call.service], call.method)
        return method


def _face(method: Any, build: Callable[..., Any]) -> Any:
    """Name, documentation and signature of a method made from a function of saccade.calls."""
    signature = inspect.signature(build)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__name__ = method.__qualname__ = build.__name__
    method.__doc__ = build.__doc__
    method.__signature__ = signature.replace(
        parameters=[own, *signature.parameters.values()], return_annotation=inspect.Signature.empty
    )
    return method


def _now(build: Callable[P, calls.Call[R]]) -> Callable[Concatenate["Client", P], R]:
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.call(build(*args, **kwargs))

    face: Callable[Concatenate[Client, P], R] = _face(method, build)
    return face


def _all_now(build: Callable[P, calls.Pages[R]]) -> Callable[Concatenate["Client", P], Iterator[R]]:
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        return self.each(build(*args, **kwargs))

    face: Callable[Concatenate[Client, P], Iterator[R]] = _face(method, build)
    return face


def _soon(build: Callable[P, calls.Call[R]]) -> Callable[Concatenate["AsyncClient", P], Awaitable[R]]:
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> R:
        # On a thread: a picture may be a file to read.
        return await self.call(await asyncio.to_thread(build, *args, **kwargs))

    face: Callable[Concatenate[AsyncClient, P], Awaitable[R]] = _face(method, build)
    return face


def _all_soon(build: Callable[P, calls.Pages[R]]) -> Callable[Concatenate["AsyncClient", P], AsyncIterator[R]]:
    def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[R]:
        return self.each(build(*args, **kwargs))

    face: Callable[Concatenate[AsyncClient, P], AsyncIterator[R]] = _face(method, build)
    return face


class Client(_Base):
    """Calls that wait for their answer. Safe for use by several threads; close it, or use it as a context manager."""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calls under way end."""
        for channel in self._channels.values():
            channel.close()

    def _open(self, target: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
        if credentials is None:
            return grpc.insecure_channel(target, options=channel_options())
        return grpc.secure_channel(target, credentials, options=channel_options())

    search = _now(calls.search)
    segment_image = _now(calls.segment_image)
    create_image = _now(calls.create_image)
    get_image = _now(calls.get_image)
    update_image = _now(calls.update_image)
    delete_image = _now(calls.delete_image)
    create_collection = _now(calls.create_collection)
    get_collection = _now(calls.get_collection)
    delete_collection = _now(calls.delete_collection)
    project_images = _now(calls.project_images)
    import_images = _now(job_calls.import_images)
    reindex_collection = _now(job_calls.reindex_collection)
    repair_collection = _now(job_calls.repair_collection)
    retag_collection = _now(job_calls.retag_collection)
    get_job = _now(job_calls.get_job)
    cancel_job = _now(job_calls.cancel_job)
    put_vocabulary = _now(calls.put_vocabulary)
    get_vocabulary = _now(calls.get_vocabulary)
    get_model = _now(calls.get_model)
    embed_texts = _now(calls.embed_texts)
    embed_images = _now(calls.embed_images)
    analyze_images = _now(calls.analyze_images)
    segment_at = _now(calls.segment_at)
    list_images = _all_now(calls.list_images)
    list_tags = _all_now(calls.list_tags)
    list_collections = _all_now(calls.list_collections)
    list_jobs = _all_now(job_calls.list_jobs)

    def call(self, call: calls.Call[R]) -> R:
        """Make a call that saccade.calls has built."""
        try:
            answer = self._method(call)(call.request, timeout=self._timeout_s, metadata=self._shown_with(call.request))
        except grpc.RpcError as exc:
            raise self._failed(call.service, exc) from exc
        return call.unpack(answer)

    def each(self, pages: calls.Pages[R]) -> Iterator[R]:
        """All items of a list that saccade.calls has built, page after page."""
        token = ""
        while True:
            items, token = self.call(pages.page(token))
            yield from items
            if not token:
                return

    def check(self, service: calls.Service) -> ApiError | None:
        """Why a service is not ready to serve; None: it is."""
        stub: Any = health_pb2_grpc.HealthStub(self._channels[service])
        try:
            return _not_serving(stub.Check(health_pb2.HealthCheckRequest(), timeout=self._timeout_s))
        except grpc.RpcError as exc:
            return self._failed(service, exc)

    def stream_images(
        self,
        images: Iterable[NewImage],
        *,
        collection: str,
        wait_for: Wait = "",
        replace: bool = False,
        max_in_flight: int = 32,
        give_up_s: float = 60.0,
    ) -> Iterator[StreamResult]:
        """Store many images, as fast as the stack takes them; a result for each, in any order.

        When the connection breaks, what has no result yet is sent again over a new one; storing is idempotent.

        Args:
            images: Taken one by one as there is room, so that it may be endless; run on another thread.
            collection: Where they go.
            wait_for: How far each result waits: durable, searchable or segmented ("": searchable).
            replace: Replace other content under the same id, instead of ALREADY_EXISTS for it.
            max_in_flight: Most images without a result, or with one that was not taken yet.
            give_up_s: How long to go on connecting anew without any answer, in seconds.

        Raises:
            ApiError: the stream as a whole was refused, or could not go on for `give_up_s`.
        """
        upload = Upload(
            collection, wait_for=wait_for, replace=replace, max_in_flight=max_in_flight, give_up_s=give_up_s
        )
        return upload_sync(self._streaming, upload, images)


class AsyncClient(_Base):
    """The same for an event loop; make it inside a running one. Close it, or use it as an async context manager."""

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calls under way end."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    def _open(self, target: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(target, options=channel_options())
        return grpc.aio.secure_channel(target, credentials, options=channel_options())

    search = _soon(calls.search)
    segment_image = _soon(calls.segment_image)
    create_image = _soon(calls.create_image)
    get_image = _soon(calls.get_image)
    update_image = _soon(calls.update_image)
    delete_image = _soon(calls.delete_image)
    create_collection = _soon(calls.create_collection)
    get_collection = _soon(calls.get_collection)
    delete_collection = _soon(calls.delete_collection)
    project_images = _soon(calls.project_images)
    import_images = _soon(job_calls.import_images)
    reindex_collection = _soon(job_calls.reindex_collection)
    repair_collection = _soon(job_calls.repair_collection)
    retag_collection = _soon(job_calls.retag_collection)
    get_job = _soon(job_calls.get_job)
    cancel_job = _soon(job_calls.cancel_job)
    put_vocabulary = _soon(calls.put_vocabulary)
    get_vocabulary = _soon(calls.get_vocabulary)
    get_model = _soon(calls.get_model)
    embed_texts = _soon(calls.embed_texts)
    embed_images = _soon(calls.embed_images)
    analyze_images = _soon(calls.analyze_images)
    segment_at = _soon(calls.segment_at)
    list_images = _all_soon(calls.list_images)
    list_tags = _all_soon(calls.list_tags)
    list_collections = _all_soon(calls.list_collections)
    list_jobs = _all_soon(job_calls.list_jobs)

    async def call(self, call: calls.Call[R]) -> R:
        """Make a call that saccade.calls has built."""
        try:
            answer = await self._method(call)(
                call.request, timeout=self._timeout_s, metadata=self._shown_with(call.request)
            )
        except grpc.RpcError as exc:
            raise self._failed(call.service, exc) from exc
        return call.unpack(answer)

    async def each(self, pages: calls.Pages[R]) -> AsyncIterator[R]:
        """All items of a list that saccade.calls has built, page after page."""
        token = ""
        while True:
            items, token = await self.call(pages.page(token))
            for item in items:
                yield item
            if not token:
                return

    async def check(self, service: calls.Service) -> ApiError | None:
        """Why a service is not ready to serve; None: it is."""
        stub: Any = health_pb2_grpc.HealthStub(self._channels[service])
        try:
            return _not_serving(await stub.Check(health_pb2.HealthCheckRequest(), timeout=self._timeout_s))
        except grpc.RpcError as exc:
            return self._failed(service, exc)

    def stream_images(
        self,
        images: Iterable[NewImage] | AsyncIterable[NewImage],
        *,
        collection: str,
        wait_for: Wait = "",
        replace: bool = False,
        max_in_flight: int = 32,
        give_up_s: float = 60.0,
    ) -> AsyncIterator[StreamResult]:
        """As Client.stream_images; a plain iterable is run on threads."""
        upload = Upload(
            collection, wait_for=wait_for, replace=replace, max_in_flight=max_in_flight, give_up_s=give_up_s
        )
        return upload_async(self._streaming, upload, images)


def _target(address: str) -> str:
    return (
        address if "://" in address or address.startswith(("unix:", "dns:", "ipv4:", "ipv6:")) else f"dns:///{address}"
    )


def _not_serving(answer: health_pb2.HealthCheckResponse) -> ApiError | None:
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return ApiError(grpc.StatusCode.UNAVAILABLE, "the service is starting, draining, or without its model")
