"""Starts the gateway: `python -m services.gateway`."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import structlog
import uvicorn
import uvloop

from services.common.objects import LocalObjects, open_object_store
from services.common.settings import load_settings, split_address
from services.common.telemetry import start_telemetry
from services.gateway.app import create_app
from services.gateway.backends import Backends
from services.gateway.settings import GatewaySettings


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
        structlog.get_logger(__name__).info("draining")


async def _serve(settings: GatewaySettings) -> bool:
    backends = Backends(
        embedder=settings.embedder_address, ingest=settings.ingest_address, query=settings.query_address
    )
    objects = None
    if settings.objects_url.startswith("file:"):
        objects = cast(LocalObjects, open_object_store(settings))
    host, port = split_address(settings.listen)
    server = _Server(
        uvicorn.Config(
            create_app(settings, backends, objects),
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, int(settings.drain_s)),
            timeout_keep_alive=75,
            h11_max_incomplete_event_size=64 * 1024,
        )
    )
    structlog.get_logger(__name__).info("listening", address=settings.listen)
    await server.serve()
    structlog.get_logger(__name__).info("stopped")
    return server.started


def _main() -> int:
    settings = load_settings(GatewaySettings, "gateway")
    start_telemetry("gateway", settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return 0 if runner.run(_serve(settings)) else 1


if __name__ == "__main__":
    raise SystemExit(_main())
