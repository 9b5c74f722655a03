"""The embedder's composition root: `python -m services.embedder`."""

import asyncio

import structlog

from saccade.embedder.v1 import embedder_service_pb2, embedder_service_pb2_grpc
from services.common.admission import Admission
from services.common.gate import Gate
from services.common.rpc import Server, run_service, serve_until_signal
from services.embedder.admission import BULK_SHARE
from services.embedder.engines import Engines
from services.embedder.models.registry import load_encoders, load_segmenter
from services.embedder.requests import is_bulk
from services.embedder.servicer import EmbedderServicer
from services.embedder.settings import EmbedderSettings
from services.embedder.watchdog import Watchdog, Watched

_log = structlog.get_logger(__name__)


class _Service:
    """What is loaded once the server listens, and closed after its last call."""

    def __init__(self, settings: EmbedderSettings, servicer: EmbedderServicer, server: Server) -> None:
        self._settings = settings
        self._servicer = servicer
        self._server = server
        self._engines: Engines | None = None
        self._watchdog: Watchdog | None = None

    async def make_ready(self) -> None:
        """Load the models, warm them up, and watch them."""
        settings = self._settings
        encoders = await asyncio.to_thread(load_encoders, settings)
        segmenter = await asyncio.to_thread(load_segmenter, settings)
        self._engines = engines = Engines(settings, encoders, segmenter)
        await engines.start()
        watched: list[Watched] = []
        for name in engines.names:
            engine = engines.named(name)
            info, queue = engine.info, engine.encoding
            _log.info(
                "model loaded",
                model=info.model,
                fingerprint=info.fingerprint,
                dimension=info.dimension,
                device=info.device,
                precision=info.precision,
            )
            watched.append(Watched(name, queue.batcher, queue.check, settings.watch_every_s, settings.watch_limit_s))
        if segmenter is not None and (segmenting := engines.segmenting) is not None:
            _log.info("segmenter loaded", model=segmenter.name, device=segmenter.device, precision=segmenter.precision)
            every_s, limit_s = settings.watch_segmenter_every_s, settings.watch_limit_s
            watched.append(Watched("segmenter", segmenting.batcher, segmenting.check, every_s, limit_s))
        self._servicer.serve(engines)
        self._watchdog = Watchdog(watched, self._server.set_ready)
        self._watchdog.start()

    async def close(self) -> None:
        """Stop watching, then computing."""
        if self._watchdog is not None:
            await self._watchdog.close()
        if self._engines is not None:
            await self._engines.close()


async def _main(settings: EmbedderSettings) -> None:
    server = Server(settings)
    servicer = EmbedderServicer()
    descriptor = embedder_service_pb2.DESCRIPTOR.services_by_name["EmbedderService"]
    server.add(descriptor, embedder_service_pb2_grpc.add_EmbedderServiceServicer_to_server, servicer)
    # Models have queues of their own, by items; here it is seen to that calls beyond those cost nothing.
    calls = settings.max_waiting_items
    gate = Gate("embedder", places=calls, waiting=0, least=calls, bulk_share=BULK_SHARE)
    server.admit(descriptor, Admission(gate, is_bulk=is_bulk))
    await server.start()
    service = _Service(settings, servicer, server)
    await serve_until_signal(server, service.make_ready, service)


if __name__ == "__main__":
    run_service("embedder", EmbedderSettings, _main)
