from typing import Any, cast

from services.common.objects import ObjectStore
from services.common.records import CollectionRecord, collection_key
from services.ingest.collections import Collections


async def test_pages_pass_over_what_a_caller_may_not_see(objects: ObjectStore) -> None:
    names = [f"{kind}{number}" for number in range(6) for kind in ("a", "b")]
    for name in names:
        record = CollectionRecord(name=name, model="toy", fingerprint="f", dimension=4, created_at_ms=1)
        await objects.put(collection_key(name), record.model_dump_json().encode())
    nothing = cast(Any, None)
    collections = Collections(objects, nothing, nothing, nothing, nothing, ttl_s=60)
    for limit in (1, 2, 5, 6, 7, 20):
        found: list[str] = []
        after = ""
        while True:
            page, after = await collections.page(
                start_after=after, limit=limit, visible=lambda name: name.startswith("b")
            )
            assert len(page) <= limit
            assert not after or after.startswith("b"), "where to go on is in the token that the caller gets"
            found += [record.name for record in page]
            if not after:
                break
            assert len(page) == limit
        assert found == [name for name in sorted(names) if name.startswith("b")]
    everything, after = await collections.page(start_after="", limit=20)
    assert [record.name for record in everything] == sorted(names)
    assert after == ""
