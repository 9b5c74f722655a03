"""What is down is not asked, and what comes back is used again: real servers that are killed and started."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from services.common.breaker import State
from services.common.embedder_client import EmbedderClient
from services.common.errors import DeadlineExceeded, Unavailable
from services.common.objects import open_object_store
from services.common.settings import ObjectSettings, VectorSettings
from services.common.vectors import VectorStore
from tests.engines import milvus_lite, minio_server
from tests.integration.query_gallery import TOY, start_process

RECOVERY_S = 60


@dataclass(frozen=True)
class Dependency:
    """A server, and how its client is made, used and closed. `where` stands in what refused callers are told."""

    name: str
    where: str
    kill: Callable[[], None]
    restart: Callable[[], None]
    connect: Callable[[], tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[None]]]]


def _milvus(folder: Path, held: ExitStack) -> Dependency:
    server = held.enter_context(milvus_lite(folder))

    def connect() -> tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[None]]]:
        store = VectorStore(VectorSettings(milvus_uri=server.uri))
        return store.check, store.close

    return Dependency("milvus", server.uri, server.kill, server.restart, connect)


def _objects(folder: Path, held: ExitStack) -> Dependency:
    server = held.enter_context(minio_server(folder))
    settings = ObjectSettings.model_validate(
        {
            "objects_url": "s3://bucket",
            "s3_endpoint": f"http://{server.endpoint}",
            "s3_access_key": server.access_key,
            "s3_secret_key": server.secret_key,
            "s3_create_bucket": True,
        }
    )

    def connect() -> tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[None]]]:
        store = open_object_store(settings)
        return store.check, store.close

    return Dependency("objects", server.endpoint, server.kill, server.restart, connect)


def _embedder(_folder: Path, held: ExitStack) -> Dependency:
    process, address = held.enter_context(start_process("services.embedder", TOY))

    def connect() -> tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[None]]]:
        client = EmbedderClient(f"dns:///{address}", timeout_s=30)
        return client.get_model, client.close

    return Dependency("embedder", "the embedder", process.kill, process.restart, connect)


@pytest.fixture(params=[_milvus, _objects, _embedder], ids=["milvus", "objects", "embedder"])
def dependency(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Dependency]:
    start: Callable[[Path, ExitStack], Dependency] = request.param
    with ExitStack() as held:
        yield start(tmp_path, held)


@pytest.mark.timeout(180)
async def test_what_is_down_is_not_asked_and_is_used_again_when_it_is_back(dependency: Dependency) -> None:
    def state() -> float | None:
        return REGISTRY.get_sample_value("saccade_breaker_state", {"dependency": dependency.name})

    call, close = dependency.connect()
    await call()
    assert state() == State.CLOSED.value
    await asyncio.to_thread(dependency.kill)
    async with asyncio.timeout(RECOVERY_S):
        while state() == State.CLOSED.value:
            with pytest.raises((Unavailable, DeadlineExceeded)):
                await call()
    outcomes = await asyncio.gather(*(call() for _ in range(50)), return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) and outcome.retry_after_s > 0 for outcome in outcomes)
    assert sum(dependency.where in str(outcome) and "asked again in" in str(outcome) for outcome in outcomes) >= 49
    await asyncio.to_thread(dependency.restart)
    async with asyncio.timeout(RECOVERY_S):
        while True:
            try:
                await call()
                break
            except (Unavailable, DeadlineExceeded):
                await asyncio.sleep(0.1)
    assert state() == State.CLOSED.value
    await asyncio.gather(*(call() for _ in range(20)))
    await close()
