"""What several of these modules run against: a whole ingest service, and a query service with a gallery."""

from collections.abc import Iterator

import pytest

from saccade.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from saccade.query.v1.query_service_pb2_grpc import QueryServiceStub
from tests.engines import free_port, milvus_lite
from tests.integration import ingest_support, query_gallery
from tests.integration.ingest_support import Ingest


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingest]:
    """An ingest service on milvus-lite, local objects and the toy models; what it logs must not show a mistake."""
    folder = tmp_path_factory.mktemp("ingest")
    port = free_port()
    with (
        milvus_lite(folder / "milvus") as milvus,
        ingest_support.embedder_process(port),
        ingest_support.ingest_process(ingest_support.Stack(milvus, port, folder / "objects")) as ingest,
    ):
        yield ingest
        assert ingest.mistakes() == []


@pytest.fixture
def ingest(service: Ingest) -> IngestServiceStub:
    """The service's calls."""
    return service.stub


@pytest.fixture
def collection(ingest: IngestServiceStub) -> str:
    """A new collection."""
    return ingest_support.make_collection(ingest)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[query_gallery.Stack]:
    """What a query service needs, with the gallery of toys in it."""
    folder = tmp_path_factory.mktemp("query")
    with (
        milvus_lite(folder / "milvus") as milvus,
        query_gallery.start_process("services.embedder", query_gallery.TOY) as (_, embedder),
    ):
        stack = query_gallery.Stack(milvus.uri, embedder, folder / "objects")
        query_gallery.load_gallery(stack)
        yield stack


@pytest.fixture(scope="module")
def query(gallery: query_gallery.Stack) -> Iterator[QueryServiceStub]:
    """The calls of a query service that has them."""
    with (
        query_gallery.start_process("services.query", gallery.environment) as (_, address),
        query_gallery.connected(address) as stub,
    ):
        yield stub
