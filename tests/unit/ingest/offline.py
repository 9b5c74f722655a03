"""Ingest's parts put together, with neither embedder nor index."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.common.embedder_client import EmbedderClient
from services.common.fetch import ImageFetcher
from services.common.objects import ObjectStore
from services.common.vectors import VectorStore
from services.ingest.collections import Collections
from services.ingest.dirt import DirtyMarks
from services.ingest.files import ImageFiles
from services.ingest.indexer import Indexer
from services.ingest.intake import Intake
from services.ingest.library import Library
from services.ingest.locks import KeyedLocks
from services.ingest.markers import MarkerStore
from services.ingest.pipeline import Pipeline
from services.ingest.settings import IngestSettings
from services.ingest.solitude import Solitude
from services.ingest.uninterrupted import Uninterrupted
from services.ingest.vocabulary import Vocabularies
from services.ingest.worker import Worker
from tests.engines import free_port

LEASE_S = 60


@dataclass(frozen=True)
class Offline:
    """What works on images."""

    library: Library
    worker: Worker


@asynccontextmanager
async def offline(objects: ObjectStore, files: ImageFiles) -> AsyncIterator[Offline]:
    """The parts, on these objects; what they ask of others is refused at once."""
    settings = IngestSettings(
        objects_url="file:///unused",
        embedder_address=f"127.0.0.1:{free_port()}",
        milvus_uri=f"http://127.0.0.1:{free_port()}",
        outage_patience_s=0.01,
        backoff_s=30,
    )
    vectors = VectorStore(settings)
    embedder = EmbedderClient(settings.embedder_address, timeout_s=5)
    vocabularies = Vocabularies(objects, default="general")
    markers = MarkerStore(objects, lease_s=LEASE_S)
    intake = Intake(settings.image_limits, thumbnail_px=32, workers=1)
    fetcher = ImageFetcher(settings.fetch_limits, allow_private=False)
    collections = Collections(objects, vectors, embedder, vocabularies, markers, ttl_s=60)
    pipeline = Pipeline(
        files=files,
        vectors=vectors,
        embedder=embedder,
        vocabularies=vocabularies,
        collections=collections,
        dirt=DirtyMarks(objects),
    )
    locks, steps = KeyedLocks(), Uninterrupted()
    worker = Worker(
        pipeline=pipeline,
        files=files,
        intake=intake,
        markers=markers,
        collections=collections,
        locks=locks,
        steps=steps,
        solitude=Solitude(embedder),
        settings=settings,
    )
    indexer = Indexer(worker, max_in_flight=1, max_segmenting=1, lease_s=LEASE_S, drain_s=0)
    library = Library(
        files=files,
        pipeline=pipeline,
        intake=intake,
        fetcher=fetcher,
        collections=collections,
        markers=markers,
        indexer=indexer,
        locks=locks,
        steps=steps,
        max_wait_s=5,
    )
    yield Offline(library, worker)
    await indexer.close()
    await intake.close()
    await fetcher.close()
    await embedder.close()
    await vectors.close()
