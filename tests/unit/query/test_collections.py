import pytest

from services.common.cache import TtlCache
from services.common.errors import Internal, NotFound
from services.common.objects import LocalObjects
from services.common.records import (
    CollectionRecord,
    VocabularyEntryRecord,
    VocabularyRecord,
    collection_key,
    vocabulary_key,
)
from services.query.collections import Collections

ROOMY_S = 60.0


def record(*, deleting: bool = False, generation: int = 1) -> CollectionRecord:
    return CollectionRecord(
        name="owls",
        model="toy",
        fingerprint="f",
        dimension=4,
        generation=generation,
        created_at_ms=1,
        deleting=deleting,
    )


async def test_a_collection_is_read_once_within_its_time(objects: LocalObjects) -> None:
    collections = Collections(objects, ttl_s=ROOMY_S, vocabulary="general")
    await objects.put(collection_key("owls"), record().to_bytes())
    assert (await collections.get("owls")).generation == 1
    await objects.put(collection_key("owls"), record(generation=2).to_bytes())
    assert (await collections.get("owls")).generation == 1


async def test_what_is_forgotten_is_read_anew(objects: LocalObjects) -> None:
    collections = Collections(objects, ttl_s=ROOMY_S, vocabulary="general")
    await objects.put(collection_key("owls"), record().to_bytes())
    await collections.get("owls")
    await objects.put(collection_key("owls"), record(generation=2).to_bytes())
    collections.forget("owls")
    collections.forget("nobody")
    assert (await collections.get("owls")).generation == 2


async def test_an_old_reading_is_not_used(objects: LocalObjects) -> None:
    collections = Collections(objects, ttl_s=0, vocabulary="birds")
    await objects.put(collection_key("owls"), record().to_bytes())
    await collections.get("owls")
    await objects.put(collection_key("owls"), record(generation=2).to_bytes())
    assert (await collections.get("owls")).generation == 2


async def test_a_missing_collection_is_seen_as_soon_as_it_is_made(objects: LocalObjects) -> None:
    collections = Collections(objects, ttl_s=ROOMY_S, vocabulary="general")
    with pytest.raises(NotFound) as caught:
        await collections.get("owls")
    assert caught.value.field == "collection"
    await objects.put(collection_key("owls"), record().to_bytes())
    assert (await collections.get("owls")).name == "owls"


async def test_a_collection_being_deleted_is_not_there(objects: LocalObjects) -> None:
    await objects.put(collection_key("owls"), record(deleting=True).to_bytes())
    with pytest.raises(NotFound):
        await Collections(objects, ttl_s=ROOMY_S, vocabulary="general").get("owls")


async def test_an_unreadable_record_is_our_own_error(objects: LocalObjects) -> None:
    await objects.put(collection_key("owls"), b"{")
    with pytest.raises(Internal, match="owls"):
        await Collections(objects, ttl_s=ROOMY_S, vocabulary="general").get("owls")


async def test_vocabularies(objects: LocalObjects) -> None:
    collections = Collections(objects, ttl_s=0, vocabulary="birds")
    assert await collections.vocabulary_of(record()) is None
    birds = VocabularyRecord(name="birds", entries=(VocabularyEntryRecord(name="owl"),))
    await objects.put(vocabulary_key("birds"), birds.to_bytes())
    assert await collections.vocabulary_of(record()) == birds
    other = record().model_copy(update={"vocabulary": "trees"})
    assert await collections.vocabulary_of(other) is None


async def test_the_cache_forgets_the_oldest() -> None:
    loaded: list[str] = []

    async def load(name: str) -> str:
        loaded.append(name)
        return name

    cache = TtlCache(load, ttl_s=ROOMY_S, size=2)
    for name in ("a", "b", "a", "c", "b", "a"):
        assert await cache.get(name) == name
    assert loaded == ["a", "b", "c", "a"]
