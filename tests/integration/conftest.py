"""What several of these modules run against: an ingest service, a query service with a gallery, a vector index."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from saccade.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from saccade.query.v1.query_service_pb2_grpc import QueryServiceStub
from services.common.vectors import Generation, VectorStore
from tests.engines import MilvusServer, Process, free_port, milvus_lite, milvus_real
from tests.integration import ingest_support, query_gallery
from tests.integration.ingest_support import Ingest, Stack
from tests.integration.vectors_support import StartMilvus, counts, settings_for
from tests.unit.common.vectors.filter_model import DIMENSION, image_rows, segment_rows


@pytest.fixture(scope="module")
def embedder_port() -> int:
    """Where the embedder is, also while it is not running."""
    return free_port()


@pytest.fixture(scope="module")
def embedder(request: pytest.FixtureRequest, embedder_port: int) -> Iterator[Process]:
    """An embedder with the toy models, and with the settings that a module's EMBEDDER names."""
    with ingest_support.embedder_process(embedder_port, **getattr(request.module, "EMBEDDER", {})) as process:
        yield process


@pytest.fixture(scope="module")
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, embedder_port: int, embedder: Process
) -> Iterator[Stack]:
    """What ingest needs: milvus-lite, local objects, an embedder; a module's INGEST names further settings."""
    folder = tmp_path_factory.mktemp("ingest")
    with milvus_lite(folder / "milvus") as milvus:
        yield Stack(milvus, embedder_port, folder / "objects", getattr(request.module, "INGEST", {}))


@pytest.fixture(scope="module")
def service(stack: Stack) -> Iterator[Ingest]:
    """An ingest service on that; what it logs must not show a mistake."""
    with ingest_support.ingest_process(stack) as ingest:
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


@pytest.fixture(scope="module", params=[milvus_lite, milvus_real], ids=["lite", "real"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    start: StartMilvus = request.param
    with start(tmp_path_factory.mktemp("milvus")) as server:
        yield server


@pytest.fixture
async def store(engine: MilvusServer) -> AsyncIterator[VectorStore]:
    vectors = VectorStore(settings_for(engine))
    yield vectors
    await vectors.close()


@pytest.fixture(scope="module")
def shared(engine: MilvusServer) -> Generation:
    """A generation that tests have to themselves one after the other: Milvus takes seconds to make one."""

    async def make() -> Generation:
        store = VectorStore(settings_for(engine))
        made = Generation("shared", 1, DIMENSION, "model-a")
        await store.create_generation(made)
        await store.close()
        return made

    return asyncio.run(make())


@pytest.fixture
async def generation(store: VectorStore, shared: Generation) -> AsyncIterator[Generation]:
    yield shared
    ids = await store.list_image_ids(shared, where="", limit=10_000)
    await store.delete_images(shared, [*ids, "a", "b"])
    assert await counts(store, shared) == (0, 0)


@pytest.fixture(scope="module")
def filtered(engine: MilvusServer) -> Generation:
    """A generation with the rows of the filter model, for tests that only read."""

    async def fill() -> Generation:
        store = VectorStore(settings_for(engine))
        made = Generation("filtered", 1, DIMENSION, "model-a")
        await store.create_generation(made)
        await store.upsert_images(made, image_rows())
        by_image = itertools.groupby(segment_rows(), key=lambda row: row.image_id)
        await asyncio.gather(*[store.replace_segments(made, image_id, list(rows)) for image_id, rows in by_image])
        assert await counts(store, made) == (len(image_rows()), len(segment_rows()))
        await store.close()
        return made

    return asyncio.run(fill())
