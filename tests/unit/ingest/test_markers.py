import asyncio

from services.common.objects import ObjectStore
from services.common.records import ImageRecord, ImageState, pending_key
from services.ingest.markers import Marker, MarkerStore, Op

RECORD = ImageRecord(
    id="a",
    state=ImageState.DURABLE,
    content_type="image/png",
    size_bytes=1,
    width=8,
    height=8,
    sha256="0",
    metadata={"a": [1, None]},
    created_at_ms=1,
    updated_at_ms=1,
    etag="e",
)


async def test_a_marker_is_held_for_a_while(objects: ObjectStore) -> None:
    store = MarkerStore(objects, lease_s=1)
    assert await store.get("c", "a") is None
    held = await store.hold("c", "a", Marker(op=Op.DELETE))
    assert held.leased
    assert held.lease_owner == store.owner
    assert await store.get("c", "a") == held
    deadline = asyncio.get_running_loop().time() + 30
    while held.leased:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


async def test_what_it_says_of_the_image_stays(objects: ObjectStore) -> None:
    store = MarkerStore(objects, lease_s=10)
    held = await store.hold("c", "a", await store.hold("c", "a", Marker(intent=RECORD, stale=True)))
    found = await store.get("c", "a")
    assert found == held
    assert (found.intent, found.stale) == (RECORD, True)


async def test_a_failure_rests_and_is_counted(objects: ObjectStore) -> None:
    store = MarkerStore(objects, lease_s=10)
    held = await store.hold("c", "a", Marker(attempts=2))
    await store.fail("c", "a", held, "e" * 5_000, rest_s=20)
    failed = await store.get("c", "a")
    assert failed is not None
    assert (failed.attempts, failed.lease_owner, len(failed.last_error)) == (3, "", 500)
    assert failed.leased
    assert failed.lease_until_ms > held.lease_until_ms


async def test_what_is_given_back_is_free_at_once(objects: ObjectStore) -> None:
    store = MarkerStore(objects, lease_s=10)
    await store.release("c", "a", await store.hold("c", "a", Marker()))
    found = await store.get("c", "a")
    assert found is not None
    assert not found.leased


async def test_a_marker_that_can_not_be_read_is_free_to_take(objects: ObjectStore) -> None:
    await objects.put(pending_key("c", "a"), b"\xff{")
    found = await MarkerStore(objects, lease_s=10).get("c", "a")
    assert found == Marker()


async def test_markers_are_listed_and_counted(objects: ObjectStore) -> None:
    store = MarkerStore(objects, lease_s=10)
    for image_id in ("b", "a", "c"):
        await store.hold("c", image_id, Marker())
    await store.hold("other", "z", Marker())
    assert await store.ids("c", limit=10) == ["a", "b", "c"]
    assert await store.ids("c", start_after="a", limit=1) == ["b"]
    assert await store.count("c") == 3
    await store.remove("c", "b")
    await store.remove("c", "b")
    assert await store.ids("c", limit=10) == ["a", "c"]
    assert await store.count("nothing") == 0
