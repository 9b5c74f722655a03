"""The ingest service's composition root: `python -m services.ingest`."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from saccade.ingest.v1 import ingest_service_pb2, ingest_service_pb2_grpc
from services.common.admission import Admission
from services.common.budget import ByteBudget
from services.common.embedder_client import EmbedderClient
from services.common.errors import DeadlineExceeded, Overloaded, SaccadeError, Unavailable
from services.common.fetch import ImageFetcher
from services.common.gate import Gate
from services.common.objects import open_object_store
from services.common.rpc import Server, run_service, serve_until_signal
from services.common.vectors import Generation, VectorStore
from services.ingest.collections import Collections
from services.ingest.dirt import DirtyMarks
from services.ingest.files import ImageFiles
from services.ingest.indexer import Indexer
from services.ingest.intake import Intake
from services.ingest.jobs.parts import job_parts
from services.ingest.library import Library
from services.ingest.locks import KeyedLocks
from services.ingest.markers import MarkerStore
from services.ingest.pipeline import Pipeline
from services.ingest.reader import Reader
from services.ingest.reconciler import Reconciler
from services.ingest.servicer import IngestServicer
from services.ingest.settings import IngestSettings
from services.ingest.solitude import Solitude
from services.ingest.uninterrupted import Uninterrupted
from services.ingest.vocabulary import Vocabularies
from services.ingest.worker import Worker

_log = structlog.get_logger(__name__)

_CHECK_PAUSE_S = 0.5
# Streams and other bulk work take this share of the images stored at a time, so that a single call finds room.
_BULK_SHARE: Final = 0.75
# Calls that store nothing, at a time; they are quick.
_OTHERS: Final = 64
# Calls at a time that are left however busy the process is.
_LEAST_PLACES: Final = 8
# Bytes of a request beside those of its image.
_BESIDE_THE_IMAGE: Final = 1024 * 1024


class Service:
    """Everything that the service is made of, put together. Made in a running event loop."""

    def __init__(self, settings: IngestSettings) -> None:
        """Put it together; nothing runs yet."""
        self._objects = open_object_store(settings)
        self.vectors = VectorStore(settings)
        self._embedder = EmbedderClient(
            settings.embedder_address, timeout_s=settings.embedder_timeout_s, peer=settings.peer_credentials
        )
        self._fetcher = ImageFetcher(settings.fetch_limits, allow_private=settings.allow_private_urls)
        self._vocabularies = Vocabularies(self._objects, default=settings.vocabulary)
        self._intake = Intake(
            settings.image_limits,
            thumbnail_px=settings.thumbnail_px,
            workers=settings.decode_workers,
            keep_location=settings.keep_location,
        )
        self._steps = Uninterrupted()
        locks = KeyedLocks()
        files = ImageFiles(self._objects)
        markers = MarkerStore(self._objects, lease_s=settings.lease_s)
        self.collections = Collections(
            self._objects,
            self.vectors,
            self._embedder,
            self._vocabularies,
            markers,
            ttl_s=settings.collection_ttl_s,
        )
        dirt = DirtyMarks(self._objects)
        pipeline = Pipeline(
            files=files,
            vectors=self.vectors,
            embedder=self._embedder,
            vocabularies=self._vocabularies,
            collections=self.collections,
            dirt=dirt,
        )
        solitude = Solitude(self._embedder)
        worker = Worker(
            pipeline=pipeline,
            files=files,
            intake=self._intake,
            markers=markers,
            collections=self.collections,
            locks=locks,
            steps=self._steps,
            solitude=solitude,
            settings=settings,
        )
        self._indexer = Indexer(
            worker,
            max_in_flight=settings.max_in_flight,
            max_segmenting=settings.max_segmenting,
            lease_s=settings.lease_s,
            drain_s=settings.index_drain_s,
        )
        self.library = Library(
            files=files,
            pipeline=pipeline,
            intake=self._intake,
            fetcher=self._fetcher,
            collections=self.collections,
            markers=markers,
            indexer=self._indexer,
            locks=locks,
            steps=self._steps,
            max_wait_s=settings.max_call_s,
        )
        self.jobs = job_parts(
            objects=self._objects,
            vectors=self.vectors,
            embedder=self._embedder,
            vocabularies=self._vocabularies,
            collections=self.collections,
            files=files,
            markers=markers,
            dirt=dirt,
            pipeline=pipeline,
            library=self.library,
            fetcher=self._fetcher,
            intake=self._intake,
            solitude=solitude,
            locks=locks,
            steps=self._steps,
            settings=settings,
        )
        self.reconciler = Reconciler(
            self.collections,
            markers,
            self._indexer,
            self._embedder,
            self.vectors,
            following=self.jobs.following,
            growth=self.jobs.growth,
            scan_s=settings.scan_s,
        )
        self.storing = Gate(
            "storing",
            places=settings.max_creates,
            waiting=settings.max_waiting,
            least=_LEAST_PLACES,
            bulk_share=_BULK_SHARE,
            bulk_beside_people=settings.bulk_beside_people or max(1, len(os.sched_getaffinity(0)) // 2),
            yields=lambda: self._embedder.people_are_here,
        )
        reader = Reader(files, self.vectors, self.collections)
        self.servicer = IngestServicer(
            library=self.library,
            reader=reader,
            collections=self.collections,
            vocabularies=self._vocabularies,
            jobs=self.jobs.jobs,
            gate=self.storing,
            settings=settings,
        )

    async def make_ready(self) -> None:
        """Return when everything that the service needs has answered once, and interrupted work is being taken up.

        Raises:
            SaccadeError: something answers, but is not as it must be; waiting would not mend it.
        """
        await _until_it_answers("object store", self._objects.check)
        await _until_it_answers("vector index", self.vectors.check)
        await _until_it_answers("embedder", self._embedder.get_model)
        await self._vocabularies.get("", "vocabulary")
        await self._vocabularies.publish()
        await self._tell_what_is_lost()
        self.reconciler.start()
        self.jobs.runner.start()

    async def _tell_what_is_lost(self) -> None:
        """Say which collections the index has lost. The service starts all the same: what is stored is safe."""
        async for name in self.collections.all_names():
            try:
                record = await self.collections.get(name)
                lost = not (await self.vectors.survey(Generation.of(record))).complete
            except SaccadeError as exc:
                _log.warning("collection not looked at", collection=name, why=exc.message)
                continue
            if lost:
                _log.warning("the index has lost the collection; `saccade rebuild` restores it", collection=name)

    async def close(self) -> None:
        """Take nothing more, finish or give back what is in flight, and let go of everything."""
        await self.reconciler.close()
        await self.jobs.growth.close()
        await self.jobs.runner.close()
        await self._indexer.close()
        await self._steps.close()
        await self.collections.close()
        await self._intake.close()
        await self._fetcher.close()
        await self._embedder.close()
        await self.vectors.close()
        await self._objects.close()


async def _until_it_answers(name: str, check: Callable[[], Awaitable[object]]) -> None:
    told = False
    while True:
        try:
            await check()
        except (Unavailable, Overloaded, DeadlineExceeded) as exc:
            if not told:
                _log.info("waiting", dependency=name, why=exc.message)
                told = True
            await asyncio.sleep(_CHECK_PAUSE_S)
        else:
            return


async def _main(settings: IngestSettings) -> None:
    server = Server(settings)
    service = Service(settings)
    descriptor = ingest_service_pb2.DESCRIPTOR.services_by_name["IngestService"]
    server.add(descriptor, ingest_service_pb2_grpc.add_IngestServiceServicer_to_server, service.servicer)
    budget = ByteBudget("single", settings.max_bytes_in_hand // 2)
    largest = settings.max_image_bytes + _BESIDE_THE_IMAGE
    server.admit(descriptor, Admission(service.storing, budget, largest), "CreateImage")
    server.admit(descriptor, Admission(Gate("ingest", places=_OTHERS, waiting=_OTHERS, least=_LEAST_PLACES)))
    await server.start()
    await serve_until_signal(server, service.make_ready, service)


if __name__ == "__main__":
    run_service("ingest", IngestSettings, _main)
