"""A real gRPC server on a free port whose three services record what they get and answer as told."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from saccade.embedder.v1 import embedder_service_pb2
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from saccade.query.v1 import query_service_pb2
from services.common.errors import SaccadeError
from services.common.status import code_of, to_status

Answer = Message | Exception | Callable[[Any], Message]
Stream = Callable[[Iterator[ingest.StreamImagesRequest]], Iterator[ingest.StreamImagesResponse]]


class FakeServices:
    """Answers by method name; a list of answers is used up one by one, its last one again and again."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.answers: dict[str, list[Answer]] = {}
        self.stream: Stream = store_all
        self.port = 0
        self.timeouts: list[float] = []
        self.shown: list[str] = []
        self.told: dict[str, Any] = {}

    def will(self, method: str, *answers: Answer) -> None:
        """Answer calls of a method like this."""
        self.answers[method] = list(answers)

    @property
    def last(self) -> Any:
        """The latest request."""
        return self.requests[-1]

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    def handle(self, method: str, request: Any, context: grpc.ServicerContext) -> Message:
        """Record a request; answer it."""
        self.requests.append(request)
        self.timeouts.append(context.time_remaining())
        self.note_credential(context)
        queue = self.answers[method]
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        if isinstance(answer, SaccadeError):
            trailing = ("grpc-status-details-bin", to_status(answer).SerializeToString())
            context.set_trailing_metadata((trailing,))
            context.abort(code_of(answer), answer.message)
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    def note_credential(self, context: grpc.ServicerContext) -> None:
        """Record what the caller showed; empty: nothing."""
        headers: dict[str, Any] = dict(context.invocation_metadata())
        self.shown.append(headers.get("authorization", ""))
        self.told = {name: value for name, value in headers.items() if name.startswith("saccade-")}

    def handle_stream(
        self, requests: Iterator[ingest.StreamImagesRequest], context: grpc.ServicerContext
    ) -> Iterator[ingest.StreamImagesResponse]:
        """Answer a stream."""
        self.note_credential(context)
        return self.stream(requests)

    @contextmanager
    def serve(self, port: int = 0) -> Iterator["FakeServices"]:
        """Listen while the context is open."""
        server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        for module, service in (
            (embedder_service_pb2, "EmbedderService"),
            (ingest, "IngestService"),
            (query_service_pb2, "QueryService"),
        ):
            server.add_generic_rpc_handlers((_handlers(self, module, service),))
        checks = health.HealthServicer()
        checks.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        self.port = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        try:
            yield self
        finally:
            server.stop(0).wait(10)


def _handlers(fake: FakeServices, module: Any, service: str) -> grpc.GenericRpcHandler:
    descriptor = module.DESCRIPTOR.services_by_name[service]
    handlers = {}
    for method in descriptor.methods:
        coding = {
            "request_deserializer": getattr(module, method.input_type.name).FromString,
            "response_serializer": lambda message: message.SerializeToString(),
        }
        if method.client_streaming:
            handlers[method.name] = grpc.stream_stream_rpc_method_handler(fake.handle_stream, **coding)
        else:
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                lambda request, context, name=method.name: fake.handle(name, request, context), **coding
            )
    return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)


def created(request: ingest.StreamImagesRequest, *, existed: bool = False) -> ingest.StreamImagesResponse:
    """The result of an image that was stored; its id is its key."""
    response = ingest.StreamImagesResponse(key=request.key)
    response.created.image.id = request.create.image.id or f"made-{request.key}"
    response.created.existed = existed
    return response


def failed(request: ingest.StreamImagesRequest, code: int, reason: str) -> ingest.StreamImagesResponse:
    """The result of an image that was not stored."""
    response = ingest.StreamImagesResponse(key=request.key)
    response.error.code, response.error.reason, response.error.message = code, reason, "no"
    return response


def store_all(requests: Iterator[ingest.StreamImagesRequest]) -> Iterator[ingest.StreamImagesResponse]:
    """Store every image."""
    for request in requests:
        yield created(request)
