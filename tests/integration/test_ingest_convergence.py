"""Ingest killed at every single write: whatever is found afterwards, the reconciler makes whole, and a repair agrees.

Each story is told again and again, each time with a process that lives one write longer, until it lives through it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.common.records import (
    ImageRecord,
    ImageState,
    original_key,
)
from services.ingest.__main__ import Service
from services.ingest.check import NewImage
from services.ingest.collections import NewCollection
from services.ingest.files import ImageFiles
from services.ingest.library import Changes
from tests.engines import MilvusServer, free_port, milvus_lite
from tests.integration.ingest_support import embedder_process, picture
from tests.integration.job_stories import built_anew, mended
from tests.integration.mortal import Lives, stored

OLD, NEW = picture("red", "blue"), picture("green", "pink")
MANY = 200
"""More writes than any story has."""


@dataclass(frozen=True)
class Engines:
    milvus: MilvusServer
    embedder_port: int


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    port = free_port()
    with milvus_lite(tmp_path_factory.mktemp("milvus")) as milvus, embedder_process(port):
        yield Engines(milvus, port)


@pytest.fixture
async def lives(engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lives]:
    async with Lives.of(engines.milvus, engines.embedder_port, tmp_path / "objects", monkeypatch) as lives:
        yield lives


async def record_of(lives: Lives, collection: str, image_id: str) -> ImageRecord | None:
    return await ImageFiles(lives.objects).read(collection, image_id)


async def told(
    lives: Lives,
    name: str,
    before: Callable[[Service, str], Awaitable[None]],
    story: Callable[[Service, str], Awaitable[None]],
    after: Callable[[str, bool], Awaitable[None]],
) -> int:
    """Tell a story about one image of a new collection, killed at each of its writes; how many these were.

    Args:
        lives: The installation.
        name: Of the collection.
        before: Makes the image what it is at first, given its id.
        story: What is killed.
        after: Checks the image, given its id and whether the story came to its end.
    """
    async with lives.live() as service:
        await service.collections.create(NewCollection(name))
    for writes in range(MANY):
        image_id = f"{name}-{writes}"
        async with lives.live() as service:
            await before(service, image_id)
        ended = await lives.tell(writes, lambda service: story(service, image_id))  # noqa: B023 - told at once
        await lives.recover()
        await after(image_id, ended)
        assert await lives.findings(name) == {}, writes
        if ended:
            return writes
    raise AssertionError("the story has no end")


async def nothing(_service: Service, _image_id: str) -> None:
    pass


async def test_an_image_that_is_stored(lives: Lives) -> None:
    async def after(image_id: str, ended: bool) -> None:
        record = await record_of(lives, "stored", image_id)
        assert record is not None or not ended
        assert record is None or record.state is ImageState.SEGMENTED

    writes = await told(lives, "stored", nothing, lambda s, i: stored(s, "stored", i, OLD), after)
    assert writes >= 10


async def test_an_image_that_is_changed(lives: Lives) -> None:
    async def story(service: Service, image_id: str) -> None:
        await service.library.update("changed", image_id, "", Changes(title="new", user_tags=("theirs",)))

    async def after(image_id: str, ended: bool) -> None:
        record = await record_of(lives, "changed", image_id)
        assert record is not None
        assert record.state is ImageState.SEGMENTED
        assert (record.title, record.user_tags) in (
            {("new", ("theirs",))} if ended else {("", ("own",)), ("new", ("theirs",))}
        )

    assert await told(lives, "changed", lambda s, i: stored(s, "changed", i, OLD), story, after) >= 4


async def test_an_image_that_is_replaced(lives: Lives) -> None:
    async def after(image_id: str, ended: bool) -> None:
        record = await record_of(lives, "replaced", image_id)
        assert record is not None
        assert record.state is ImageState.SEGMENTED
        data = await lives.objects.get(original_key("replaced", image_id))
        assert data == NEW or (data == OLD and not ended)
        # What the caller is told who tries again.
        async with lives.live() as service:
            again = await service.library.create(
                "replaced",
                NewImage(id=image_id, data=NEW, tags=("own",)),
                wait_for=ImageState.SEGMENTED,
                replace=True,
                interactive=True,
            )
        assert again.existed == (data == NEW)
        assert await lives.objects.get(original_key("replaced", image_id)) == NEW

    writes = await told(
        lives,
        "replaced",
        lambda s, i: stored(s, "replaced", i, OLD),
        lambda s, i: stored(s, "replaced", i, NEW, replace=True),
        after,
    )
    assert writes >= 12


async def test_a_replacement_cut_off_is_begun_again_at_once(lives: Lives) -> None:
    """Before anything has recovered, with the old bytes or with the new ones."""
    async with lives.live() as service:
        await service.collections.create(NewCollection("again"))
    for writes in range(8):
        for data in (OLD, NEW):
            image_id = f"i-{writes}-{len(data)}"
            async with lives.live() as service:
                await stored(service, "again", image_id, OLD)
            assert not await lives.tell(writes, lambda s: stored(s, "again", image_id, NEW, replace=True))  # noqa: B023
            async with lives.live() as service:
                await stored(service, "again", image_id, data, replace=True)
            assert await lives.objects.get(original_key("again", image_id)) == data
    await lives.recover()
    assert await lives.findings("again") == {}


async def test_an_image_that_is_removed(lives: Lives) -> None:
    async def after(image_id: str, ended: bool) -> None:
        record = await record_of(lives, "removed", image_id)
        assert record is None or (record.state is ImageState.SEGMENTED and not ended)
        if record is None:
            assert await lives.objects.list(f"collections/removed/images/{image_id}/") == []

    async def story(service: Service, image_id: str) -> None:
        await service.library.delete("removed", image_id, allow_missing=False)

    assert await told(lives, "removed", lambda s, i: stored(s, "removed", i, OLD), story, after) >= 7


async def test_a_collection_that_is_removed(lives: Lives) -> None:
    for writes in range(MANY):
        name = f"gone{writes}"
        async with lives.live() as service:
            await service.collections.create(NewCollection(name))
            await stored(service, name, "a", OLD)
        ended = await lives.tell(writes, lambda service: service.collections.delete(name, force=True))  # noqa: B023
        await lives.recover()
        async with lives.live() as service:
            standing = await service.collections.peek(name)
            if standing is None:
                assert await lives.objects.list(f"collections/{name}/") == []
            else:
                assert writes == 0
                assert await lives.findings(name) == {}
                await service.collections.delete(name, force=True)
        if ended:
            assert writes >= 8
            return
    raise AssertionError("the story has no end")


async def test_an_index_that_is_built_anew(lives: Lives) -> None:
    await built_anew(lives, stride=6)


async def test_a_repair_that_is_cut_off(lives: Lives) -> None:
    await mended(lives, stride=6)
