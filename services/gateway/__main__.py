"""Starts the gateway: `python -m services.gateway`."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import cast

import structlog
import uvicorn
import uvloop
from starlette.types import ASGIApp

from services.common.access.authenticator import build_authenticator
from services.common.access.exposure import check_exposure, warn_of_plain_text
from services.common.errors import SaccadeError
from services.common.objects import LocalObjects, open_object_store
from services.common.settings import load_settings, split_address
from services.common.telemetry import start_telemetry
from services.gateway.app import create_app
from services.gateway.backends import Backends
from services.gateway.connection import ConnectionLimits, connection_class
from services.gateway.https import Certificate
from services.gateway.settings import GatewaySettings

_log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """A server that a signal drains and that then ends well: uvicorn's own would raise the signal once more."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        yield

    def _drain(self) -> None:
        # First: whoever reads the log may act on it at once.
        self.should_exit = True
        _log.info("draining")


async def _serve(settings: GatewaySettings) -> bool:
    check_exposure(settings.listen, settings)
    warn_of_plain_text(settings.listen, settings, tls=bool(settings.https_cert))
    async with AsyncExitStack() as parts:
        authenticator = build_authenticator(settings)
        if authenticator:
            parts.push_async_callback(authenticator.close)
        backends = Backends(
            embedder=settings.embedder_address,
            ingest=settings.ingest_address,
            query=settings.query_address,
            # Callers show their own credentials; whoever shows none gets no more by coming through here.
            peer=replace(settings.peer_credentials, key=""),
        )
        parts.push_async_callback(backends.close)
        objects = None
        if settings.objects_url.startswith("file:"):
            objects = cast(LocalObjects, open_object_store(settings))
            parts.push_async_callback(objects.close)
        certificate = Certificate(settings.https_cert, settings.https_key) if settings.https_cert else None
        if certificate:
            watching = asyncio.ensure_future(certificate.watch())
            parts.callback(watching.cancel)
        server = _Server(_config(settings, create_app(settings, backends, objects, authenticator), certificate))
        _log.info("listening", address=settings.listen, auth=settings.auth)
        await server.serve()
    _log.info("stopped")
    return server.started


def _config(settings: GatewaySettings, app: ASGIApp, certificate: Certificate | None) -> uvicorn.Config:
    host, port = split_address(settings.listen)
    limits = ConnectionLimits(
        max_connections=settings.max_connections,
        head_timeout_s=settings.head_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
    )
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=connection_class(limits),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, int(settings.drain_s)),
        timeout_keep_alive=int(settings.keep_alive_s),
        h11_max_incomplete_event_size=settings.max_head_bytes,
        ssl_context_factory=(lambda _config, _default: certificate.context) if certificate else None,
    )


def _main() -> int:
    settings = load_settings(GatewaySettings, "gateway")
    start_telemetry("gateway", settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return 0 if runner.run(_serve(settings)) else 1
        except SaccadeError as exc:
            sys.exit(f"saccade gateway: {exc.message}")


if __name__ == "__main__":
    raise SystemExit(_main())
