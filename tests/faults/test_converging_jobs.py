"""Jobs killed at every single write: whatever is found afterwards is made whole, and a repair agrees."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.engines import MilvusServer, free_port, milvus_lite
from tests.integration.ingest_support import embedder_process
from tests.integration.job_stories import built_anew, mended
from tests.integration.mortal import Lives

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MilvusServer, int]]:
    port = free_port()
    with milvus_lite(tmp_path_factory.mktemp("milvus")) as milvus, embedder_process(port):
        yield milvus, port


@pytest.fixture
async def lives(
    engines: tuple[MilvusServer, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Lives]:
    async with Lives.of(*engines, tmp_path / "objects", monkeypatch) as lives:
        yield lives


async def test_a_reindex_killed_at_every_write(lives: Lives) -> None:
    await built_anew(lives, stride=1)


async def test_a_repair_killed_at_every_write(lives: Lives) -> None:
    await mended(lives, stride=1)
