from services.common.objects import ObjectStore
from services.ingest.dirt import DirtyMarks


async def test_marks_are_removed_by_their_own_names(objects: ObjectStore) -> None:
    dirt = DirtyMarks(objects)
    await dirt.leave("c", "a.b-c", generation=3)
    await dirt.leave("c", "z", generation=3)
    seen = await dirt.page("c", limit=10)
    assert sorted((mark.image_id, mark.generation) for mark in seen) == [("a.b-c", 3), ("z", 3)]
    # The same image again, while somebody works on what was seen.
    await dirt.leave("c", "z", generation=3)
    await dirt.remove(seen)
    assert [mark.image_id for mark in await dirt.page("c", limit=10)] == ["z"]
    assert await dirt.page("other", limit=10) == []
    assert len(await dirt.page("c", limit=1)) == 1
