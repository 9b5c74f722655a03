"""Storing, with neither embedder nor index."""

import io
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from PIL import Image

from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.errors import NotFound
from services.common.objects import ObjectStore
from services.common.records import CollectionRecord, ImageState, collection_key
from services.ingest.check import NewImage, new_image
from services.ingest.files import ImageFiles
from services.ingest.library import Library
from tests.unit.ingest.offline import offline

RECORD = CollectionRecord(name="c", model="toy", fingerprint="toy-1", dimension=8, created_at_ms=1)


class Files(ImageFiles):
    """Does something else just before an image's content is written."""

    before: Callable[[], Awaitable[None]] | None = None

    async def write_content(self, *args: object) -> None:
        if self.before is not None:
            await self.before()
        await super().write_content(*args)  # type: ignore[arg-type]


@pytest.fixture
def files(objects: ObjectStore) -> Files:
    return Files(objects)


@pytest.fixture
async def library(objects: ObjectStore, files: Files) -> AsyncIterator[Library]:
    await objects.put(collection_key("c"), RECORD.to_bytes())
    async with offline(objects, files) as parts:
        yield parts.library


def picture() -> NewImage:
    data = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(data, "PNG")
    return new_image(pb.NewImage(id="a", data=data.getvalue()), "image")


async def test_stored_is_what_is_acknowledged(library: Library, objects: ObjectStore) -> None:
    stored = await library.create("c", picture(), wait_for=ImageState.DURABLE, replace=False, interactive=False)
    assert stored.record.id == "a"
    assert await objects.list_folders("collections/c/images/") == ["a"]


@pytest.mark.parametrize("announced", [True, False])
async def test_a_collection_that_goes_meanwhile_takes_the_image_with_it(
    library: Library, files: Files, objects: ObjectStore, announced: bool
) -> None:
    async def remove() -> None:
        if announced:
            await objects.put(collection_key("c"), RECORD.model_copy(update={"deleting": True}).to_bytes())
        else:
            await objects.delete(collection_key("c"))

    files.before = remove
    with pytest.raises(NotFound) as caught:
        await library.create("c", picture(), wait_for=ImageState.DURABLE, replace=False, interactive=False)
    assert caught.value.reason == "COLLECTION_NOT_FOUND"
    left = [info.key for info in await objects.list("collections/c/")]
    assert left == ([collection_key("c")] if announced else [])
