"""The query service's process: `python -m services.query`."""

from typing import Final

import structlog
from tenacity import retry, retry_if_exception_type, wait_exponential

from saccade.query.v1 import query_service_pb2 as pb
from saccade.query.v1.query_service_pb2_grpc import add_QueryServiceServicer_to_server
from services.common.admission import Admission
from services.common.embedder_client import EmbedderClient
from services.common.errors import DeadlineExceeded, Unavailable
from services.common.fetch import ImageFetcher
from services.common.gate import Gate
from services.common.objects import open_object_store
from services.common.rpc import Server, run_service, serve_until_signal
from services.common.vectors import VectorStore
from services.query.calibration import Calibrations
from services.query.collections import Collections
from services.query.embedding import PartEmbedder
from services.query.picture import PictureSegmenter
from services.query.projection import Projector
from services.query.request import is_bulk
from services.query.results import ResultReader
from services.query.search import Search
from services.query.servicer import QueryServicer
from services.query.settings import QuerySettings
from services.query.tagging import PartTagger
from services.query.tags import TagCounter

# Searches at a time that are left however busy the process is.
_LEAST_PLACES: Final = 4

_log = structlog.get_logger("services.query")


async def _main(settings: QuerySettings) -> None:
    """Serve until told to stop."""
    objects = open_object_store(settings)
    vectors = VectorStore(settings)
    embedder = EmbedderClient(
        settings.embedder_address, timeout_s=settings.embedder_timeout_s, peer=settings.peer_credentials
    )
    fetcher = ImageFetcher(settings.fetch_limits, allow_private=settings.allow_private_urls)
    collections = Collections(objects, ttl_s=settings.collection_ttl_s, vocabulary=settings.vocabulary)
    limits = settings.image_limits
    tags = TagCounter(vectors)
    parts = PartEmbedder(embedder, vectors, objects, fetcher, limits)
    servicer = QueryServicer(
        search=Search(
            collections=collections,
            embedder=parts,
            tagger=PartTagger(collections, objects, embedder, tags),
            vectors=vectors,
            reader=ResultReader(objects),
            calibrations=Calibrations(settings.calibrations_dir),
        ),
        segmenter=PictureSegmenter(collections, embedder, limits),
        collections=collections,
        tags=tags,
        projector=Projector(vectors),
        embedder=parts,
        limits=limits,
    )
    server = Server(settings)
    descriptor = pb.DESCRIPTOR.services_by_name["QueryService"]
    server.add(descriptor, add_QueryServiceServicer_to_server, servicer)
    gate = Gate("query", places=settings.max_searches, waiting=settings.max_waiting, least=_LEAST_PLACES)
    server.admit(descriptor, Admission(gate, is_bulk=is_bulk))
    await server.start()

    # Engines may start after us. What is wrong in itself, such as a missing bucket, stops the service.
    @retry(
        retry=retry_if_exception_type((Unavailable, DeadlineExceeded)),
        wait=wait_exponential(multiplier=0.2, max=2),
        before_sleep=lambda state: _log.info("waiting", reason=str(state.outcome.exception() if state.outcome else "")),
    )
    async def make_ready() -> None:
        await objects.check()
        await vectors.check()

    await serve_until_signal(server, make_ready, fetcher, embedder, vectors, objects)


if __name__ == "__main__":
    run_service("query", QuerySettings, _main)
