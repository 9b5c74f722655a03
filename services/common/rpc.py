"""The aio gRPC server that every service runs: errors, deadlines, metrics, health, reflection and drain."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from time import perf_counter
from typing import Any, Final, Protocol, TypeVar

import grpc
import structlog
import uvloop
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.instrumentation.grpc import aio_server_interceptor, filters
from prometheus_client import Counter, Histogram

from saccade.channel import MAX_MESSAGE_BYTES
from services.common.access.exposure import check_exposure, warn_of_plain_text
from services.common.access.interceptor import build_interceptor
from services.common.access.tls import server_credentials
from services.common.admission import Admission, AdmissionInterceptor
from services.common.deadline import call_deadline
from services.common.errors import SaccadeError, Unavailable
from services.common.settings import GrpcSettings, load_settings
from services.common.status import code_of, to_status
from services.common.telemetry import start_telemetry

__all__ = ["LIVENESS", "Server", "ServiceInterceptor", "run_service", "serve_until_signal"]

LIVENESS: Final = "liveness"
"""Health service name that is SERVING as long as the process is; readiness is the empty name."""

_log = structlog.get_logger(__name__)

_DRAIN_LEAD_S: Final = 0.5

_LABELS = ["grpc_type", "grpc_service", "grpc_method"]
_STARTED = Counter("grpc_server_started_total", "Calls started.", _LABELS)
_HANDLED = Counter("grpc_server_handled_total", "Calls finished, by status code.", [*_LABELS, "grpc_code"])
_SECONDS = Histogram(
    "grpc_server_handling_seconds",
    "Time from a call's start to its end.",
    _LABELS,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)

_Servicer = TypeVar("_Servicer")
_Settings = TypeVar("_Settings", bound=GrpcSettings)
_Context = grpc.aio.ServicerContext[Any, Any]


class Drainable(Protocol):
    """Something that has work to finish after the last call."""

    async def close(self) -> None:
        """Finish, and give back what is held."""


class _Call:
    """One call being served: counted, timed, and ended with a rich status if it fails."""

    def __init__(self, kind: str, path: str) -> None:
        service, method = path.lstrip("/").split("/", 1)
        self._labels = (kind, service, method)
        self.code = grpc.StatusCode.OK

    @contextmanager
    def observed(self) -> Iterator[None]:
        started = perf_counter()
        _STARTED.labels(*self._labels).inc()
        try:
            yield
        except asyncio.CancelledError:
            self.code = grpc.StatusCode.CANCELLED
            raise
        finally:
            _SECONDS.labels(*self._labels).observe(perf_counter() - started)
            _HANDLED.labels(*self._labels, self.code.name).inc()

    async def fail(self, context: _Context, error: Exception) -> None:
        self.code = code_of(error)
        status = to_status(error)
        if self.code == grpc.StatusCode.INTERNAL:
            _log.error("call failed", method=self._labels[2], exc_info=error)
        else:
            _log.info(
                "call refused",
                method=self._labels[2],
                code=self.code.name,
                message=status.message,
                caller=context.peer(),
            )
        trailing = [("grpc-status-details-bin", status.SerializeToString())]
        if isinstance(error, Unavailable) and error.retry_after_s > 0:
            # The caller's channel repeats UNAVAILABLE at once; what is away here is not back so soon.
            trailing.append(("grpc-retry-pushback-ms", "-1"))
        await context.abort(self.code, status.message, tuple(trailing))


class ServiceInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of ours: deadline in, metrics around, `google.rpc.Status` out."""

    def __init__(self, max_call_s: float) -> None:
        """Unary calls without a deadline of their own, or with a longer one, get `max_call_s`."""
        self._max_call_s = max_call_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler that the call's path leads to, if there is one."""
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or not path.startswith("/saccade."):
            return handler
        if handler.unary_unary:
            wrap, behaviour = grpc.unary_unary_rpc_method_handler, self._unary(handler.unary_unary, path)
        else:
            wrap, behaviour = grpc.stream_stream_rpc_method_handler, self._stream(handler.stream_stream, path)
        return wrap(behaviour, handler.request_deserializer, handler.response_serializer)

    def _unary(self, handler: Callable[..., Awaitable[Any]], path: str) -> Callable[..., Any]:
        async def behaviour(request: Any, context: _Context) -> Any:
            call = _Call("unary", path)
            left = context.time_remaining()
            limit = self._max_call_s if left is None else min(left, self._max_call_s)
            with call.observed():
                try:
                    with call_deadline(limit):
                        async with asyncio.timeout(limit):
                            return await handler(request, context)
                except Exception as exc:
                    await call.fail(context, exc)

        return behaviour

    def _stream(self, handler: Callable[..., AsyncGenerator[Any, None]], path: str) -> Callable[..., Any]:
        async def behaviour(requests: AsyncIterator[Any], context: _Context) -> AsyncIterator[Any]:
            call = _Call("bidi_stream", path)
            with call.observed():
                try:
                    # Closed at once where the caller goes away between two results.
                    async with aclosing(handler(requests, context)) as responses:
                        async for response in responses:
                            yield response
                except Exception as exc:
                    await call.fail(context, exc)

        return behaviour


class Server:
    """A gRPC server with health, reflection and drain. Add servicers, start, set ready, stop."""

    def __init__(self, settings: GrpcSettings) -> None:
        """Make a server; port 0 of `settings.listen` picks a free one.

        Raises:
            FailedPrecondition: anyone could call from anywhere, or what the settings say of callers or TLS is wrong.
        """
        check_exposure(settings.listen, settings)
        self._listen = settings.listen
        self._credentials = server_credentials(settings)
        self._admission = AdmissionInterceptor()
        warn_of_plain_text(settings.listen, settings, tls=self._credentials is not None)
        self._access = build_interceptor(settings, settings.peer_names)
        self.port = 0
        self._drain_s = settings.drain_s
        self._names = [LIVENESS]
        self._reflect = settings.reflection
        self._health = health.aio.HealthServicer()
        ours_only = filters.negate(filters.any_of(filters.health_check(), filters.service_prefix("grpc.reflection")))
        self._server = grpc.aio.server(
            interceptors=[
                self._admission,
                aio_server_interceptor(filter_=ours_only),
                ServiceInterceptor(settings.max_call_s),
                *([self._access] if self._access else []),
            ],
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                # Room for a credential of the greatest length; gRPC's own bound refuses some above 8 KiB by chance.
                ("grpc.max_metadata_size", 16 * 1024),
                # Callers who open calls and drop them fill the queue of calls that no handler has yet; from a full one,
                # gRPC drops anybody's.
                ("grpc.max_concurrent_streams", settings.max_streams),
                ("grpc.max_connection_age_ms", int(settings.max_connection_age_s * 1000)),
                # A stream in flight when its connection's age is up may go on; unary calls always end within it.
                ("grpc.max_connection_age_grace_ms", 3_600_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                # Two servers on one port would each get half of the calls.
                ("grpc.so_reuseport", 0),
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def add(
        self, descriptor: ServiceDescriptor, register: Callable[[_Servicer, grpc.aio.Server], None], servicer: _Servicer
    ) -> None:
        """Serve a contract: its descriptor, the generated `add_..._to_server`, and what implements it."""
        register(servicer, self._server)
        if self._access:
            self._access.serve(descriptor)
        self._names.append(descriptor.full_name)

    def admit(self, descriptor: ServiceDescriptor, admission: Admission, *methods: str) -> None:
        """Let calls of these methods come in so; none: of all others of the service that take one request."""
        self._admission.admit(descriptor, admission, *methods)

    async def start(self) -> int:
        """Listen, NOT_SERVING at first; the port, which is also in `port` from now on."""
        await self.set_ready(False)
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        if self._reflect:
            names = [*self._names[1:], health.SERVICE_NAME, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, self._server)
        if self._credentials:
            self.port = self._server.add_secure_port(self._listen, self._credentials)
        else:
            self.port = self._server.add_insecure_port(self._listen)
        await self._server.start()
        self._admission.start()
        _log.info("listening", address=self._listen, port=self.port)
        return self.port

    async def set_ready(self, ready: bool) -> None:
        """Tell clients and probes whether to send calls here."""
        kind = health_pb2.HealthCheckResponse
        for name in ("", *self._names[1:]):
            await self._health.set(name, kind.SERVING if ready else kind.NOT_SERVING)

    async def stop(self) -> None:
        """NOT_SERVING, no new calls, and those in flight get `drain_s` to finish."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._drain_s)
        self._admission.close()
        if self._access:
            await self._access.close()


async def serve_until_signal(server: Server, make_ready: Callable[[], Awaitable[None]], *parts: Drainable) -> None:
    """Run a started server until SIGTERM or SIGINT, then drain it and close `parts` in order.

    Args:
        server: A started server.
        make_ready: Runs once at first; the server is ready when it returns. If it raises, the service stops with it.
        parts: What has work to finish after the last call.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    readying = asyncio.ensure_future(make_ready())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({readying, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            readying.result()
            await server.set_ready(True)
            _log.info("ready")
            await stopping
            _log.info("draining")
            # gRPC cancels calls that have arrived but not begun when the server stops. Clients learn first that this
            # replica takes no more, and what they had already sent gets to begin.
            await server.set_ready(False)
            await asyncio.sleep(_DRAIN_LEAD_S)
    finally:
        readying.cancel()
        stopping.cancel()
        await server.stop()
        for part in parts:
            await part.close()
    _log.info("stopped")


def run_service(name: str, kind: type[_Settings], serve: Callable[[_Settings], Coroutine[Any, Any, None]]) -> None:
    """A service's whole process: read its settings, log and measure, and `serve` until it returns.

    What is wrong in itself, such as a model or a bucket that is not there, ends the process with the reason.
    """
    settings = load_settings(kind, name)
    start_telemetry(name, settings)
    try:
        uvloop.run(serve(settings))
    except SaccadeError as exc:
        sys.exit(f"saccade {name}: {exc.message}")
