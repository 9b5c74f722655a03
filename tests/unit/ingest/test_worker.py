from collections.abc import AsyncIterator

import pytest

from services.common.objects import ObjectStore
from services.common.records import CollectionRecord, collection_key, original_key
from services.ingest.files import ImageFiles, content_hash
from services.ingest.markers import Marker, MarkerStore
from services.ingest.work import Work
from services.ingest.worker import Worker
from tests.unit.ingest.offline import LEASE_S, offline
from tests.unit.ingest.test_markers import RECORD

IMAGE = b"image"


@pytest.fixture
async def markers(objects: ObjectStore) -> MarkerStore:
    return MarkerStore(objects, lease_s=LEASE_S)


@pytest.fixture
async def worker(objects: ObjectStore) -> AsyncIterator[Worker]:
    """A worker with one image to work on."""
    collection = CollectionRecord(name="c", model="toy", fingerprint="toy-1", dimension=8, created_at_ms=1)
    files = ImageFiles(objects)
    await objects.put(collection_key("c"), collection.to_bytes())
    await objects.put(original_key("c", "a"), IMAGE)
    await files.write("c", RECORD.model_copy(update={"sha256": content_hash(IMAGE)}))
    async with offline(objects, files) as parts:
        yield parts.worker


async def test_an_image_that_was_put_back_is_not_taken_again_by_a_renewal(worker: Worker, markers: MarkerStore) -> None:
    work = Work(("c", "a"), await markers.hold("c", "a", Marker()))
    await worker.run(work, lambda: False)
    failed = await markers.get("c", "a")
    assert failed is not None
    assert (failed.lease_owner, failed.attempts, failed.leased) == ("", 1, True)
    assert "embedder" in failed.last_error
    await worker.renew(work)
    assert await markers.get("c", "a") == failed
    await worker.release(work)
    assert await markers.get("c", "a") == failed
