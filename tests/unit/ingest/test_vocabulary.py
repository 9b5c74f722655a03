from collections import Counter

import pytest

from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.errors import FailedPrecondition, Internal, InvalidArgument, NotFound
from services.common.objects import ObjectStore
from services.common.records import CollectionRecord, vocabulary_key
from services.ingest.vocabulary import Vocabularies, vocabulary_from_message, vocabulary_to_message
from services.query.collections import Collections

Entry = pb.Vocabulary.Entry


def vocabulary(**fields: object) -> pb.Vocabulary:
    given: dict[str, object] = {"name": "birds", "entries": [Entry(name="heron", category="bird"), Entry(name="wren")]}
    return pb.Vocabulary(**(given | fields))  # type: ignore[arg-type]


async def test_what_is_put_is_found(objects: ObjectStore) -> None:
    message = vocabulary(prompt_templates=["a photo of a {}", "{}"])
    await Vocabularies(objects, default="general").put(vocabulary_from_message(message))
    found = await Vocabularies(objects, default="general").get("birds")
    assert vocabulary_to_message(found) == message


async def test_an_empty_name_is_the_default_one(objects: ObjectStore) -> None:
    assert (await Vocabularies(objects, default="general").get("")).name == "general"


async def test_the_general_one_is_broad(objects: ObjectStore) -> None:
    general = await Vocabularies(objects, default="general").get("general")
    categories = Counter(entry.category for entry in general.entries)
    assert len(general.entries) >= 60
    assert {"architecture", "nature", "objects"} <= set(categories)
    assert len({entry.name for entry in general.entries}) == len(general.entries)


async def test_shipped_ones_are_not_replaced(objects: ObjectStore) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await Vocabularies(objects, default="general").put(vocabulary_from_message(vocabulary(name="general")))
    assert caught.value.field == "vocabulary.name"


async def test_a_shipped_one_put_as_it_is_is_welcome(objects: ObjectStore) -> None:
    vocabularies = Vocabularies(objects, default="general")
    shipped = vocabulary_to_message(await vocabularies.get("general"))
    await vocabularies.put(vocabulary_from_message(shipped))
    assert vocabulary_to_message(await vocabularies.get("general")) == shipped


async def test_the_query_service_finds_shipped_ones(objects: ObjectStore) -> None:
    vocabularies = Vocabularies(objects, default="general")
    await vocabularies.publish()
    collection = CollectionRecord(name="c", model="toy", fingerprint="f", dimension=4, created_at_ms=1)
    found = await Collections(objects, ttl_s=1, vocabulary="general").vocabulary_of(collection)
    assert found == await vocabularies.get("general")


async def test_unknown_ones_are_named(objects: ObjectStore) -> None:
    with pytest.raises(NotFound) as caught:
        await Vocabularies(objects, default="general").get("no", "collection.vocabulary")
    assert caught.value.field == "collection.vocabulary"
    assert "general" in caught.value.message
    with pytest.raises(InvalidArgument):
        await Vocabularies(objects, default="general").get("../no")


async def test_a_damaged_one_is_our_own_fault(objects: ObjectStore) -> None:
    await objects.put(vocabulary_key("birds"), b"{")
    with pytest.raises(Internal):
        await Vocabularies(objects, default="general").get("birds")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (vocabulary(name=""), "name"),
        (vocabulary(name="Birds"), "name"),
        (vocabulary(entries=[]), "entries"),
        (vocabulary(entries=[Entry(name=str(i)) for i in range(2_001)]), "entries"),
        (vocabulary(entries=[Entry(name="a"), Entry(name=" ")]), "entries[1].name"),
        (vocabulary(entries=[Entry(name="a"), Entry(name="a ")]), "entries[1].name"),
        (vocabulary(entries=[Entry(name="a" * 65)]), "entries[0].name"),
        (vocabulary(entries=[Entry(name="a", category="c" * 65)]), "entries[0].category"),
        (vocabulary(prompt_templates=["{}", "a photo"]), "prompt_templates[1]"),
        (vocabulary(prompt_templates=["{} {}"]), "prompt_templates[0]"),
        (vocabulary(prompt_templates=["{0} {}"]), "prompt_templates[0]"),
        (vocabulary(prompt_templates=["{}" + "a" * 200]), "prompt_templates[0]"),
        (vocabulary(prompt_templates=["{}"] * 17), "prompt_templates"),
    ],
)
def test_bad_vocabularies(message: pb.Vocabulary, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        vocabulary_from_message(message)
    assert caught.value.field == f"vocabulary.{field}"
