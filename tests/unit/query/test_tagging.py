from collections.abc import Iterable

import numpy as np
import pytest

from services.common.domain import Box, Mask, Segment, Tag
from services.common.embedder_client import EmbedderClient
from services.common.errors import DeadlineExceeded, FailedPrecondition, NotFound, Unavailable
from services.common.objects import LocalObjects
from services.common.records import (
    CollectionRecord,
    ImageRecord,
    ImageState,
    SegmentsRecord,
    TagRecord,
    VocabularyEntryRecord,
    VocabularyRecord,
    record_key,
    segments_key,
    vocabulary_key,
)
from services.common.settings import VectorSettings
from services.common.vectors import Generation, VectorStore
from services.query.collections import Collections
from services.query.domain import Content, OwnVector, QueryPart, Stored, StoredSegment, Text, Upload
from services.query.ranking import PartVectors
from services.query.tagging import PartTagger, named_words, needs_vectors
from services.query.tags import TagCounter
from tests.engines import free_port
from tests.unit.query.ranking_support import X

COLLECTION = CollectionRecord(name="owls", model="toy", fingerprint="f", dimension=4, created_at_ms=1)
WORDS = ("owl", "snowy owl", "dog", "ice cream", "cream", "T-Rex")
VOCABULARY = VocabularyRecord(name="words", entries=tuple(VocabularyEntryRecord(name=name) for name in WORDS))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("owl", ["owl"]),
        ("An OWL, with a dog!", ["owl", "dog"]),
        ("a snowy  owl", ["snowy owl"]),
        ("a snowy owl and an owl", ["snowy owl", "owl"]),
        ("ice cream", ["ice cream"]),
        ("cream on ice", ["cream"]),
        ("a t-rex?", ["T-Rex"]),
        ("owls", ["owls"]),
        ("holiday 2020", ["holiday 2020"]),
        (" my tag ", ["my tag"]),
        ("dogma", ["dogma"]),
    ],
)
def test_words_that_a_text_names(text: str, words: list[str]) -> None:
    found = named_words(text, VOCABULARY)
    assert sorted(found) == sorted(words)


def test_without_a_vocabulary_a_text_is_one_word() -> None:
    assert named_words("an owl", None) == ["an owl"]


@pytest.mark.parametrize(
    ("content", "needed"),
    [
        (Text("", "x"), False),
        (Stored("", "a"), False),
        (StoredSegment("", "a", 0), False),
        (Upload("", b""), True),
        (OwnVector("", X), True),
    ],
)
def test_what_is_tagged_by_its_vectors(content: Content, needed: bool) -> None:
    assert needs_vectors(QueryPart(0, content, 1.0)) is needed


class EvenCounter(TagCounter):
    """Every tag is as rare as its name is long."""

    async def rarity(self, generation: Generation, names: Iterable[str]) -> dict[str, float]:
        return {name: float(len(name)) for name in names}


@pytest.fixture
async def tagger(objects: LocalObjects) -> PartTagger:
    """With an embedder that nobody answers for."""
    record = ImageRecord(
        id="a",
        state=ImageState.SEGMENTED,
        content_type="image/png",
        size_bytes=1,
        width=8,
        height=8,
        sha256="0" * 64,
        user_tags=("mine", "owl"),
        model_tags=(TagRecord(name="owl", confidence=0.4), TagRecord(name="dog", confidence=0.25)),
        fingerprint="f",
        generation=1,
        created_at_ms=1,
        updated_at_ms=1,
        etag="1",
    )
    segment = Segment(
        index=3,
        box=Box(0, 0, 1, 1),
        area_fraction=0.5,
        predicted_iou=1,
        stability=1,
        mask=Mask(1, 1, (0, 1)),
        vector=X,
        tags=(Tag("dog", "", 0.75),),
    )
    await objects.put(record_key("owls", "a"), record.to_bytes())
    await objects.put(segments_key("owls", "a"), SegmentsRecord.of((segment,)).to_bytes())
    await objects.put(vocabulary_key("words"), VOCABULARY.to_bytes())
    collections = Collections(objects, ttl_s=60, vocabulary="words")
    embedder = EmbedderClient(f"dns:///127.0.0.1:{free_port()}", timeout_s=0.2)
    counter = EvenCounter(VectorStore(VectorSettings(milvus_uri=f"http://127.0.0.1:{free_port()}")))
    return PartTagger(collections, objects, embedder, counter)


async def tags_of(
    tagger: PartTagger, content: Content, collection: CollectionRecord = COLLECTION, *, required: bool = True
) -> dict[str, tuple[float, float]]:
    vectors = [PartVectors.single(1.0, X)]
    (made,), missing = await tagger.tagged([QueryPart(0, content, 1.0)], vectors, collection, required=required)
    assert not missing
    assert np.array_equal(made.vector, X)
    return dict(made.tags)


async def test_words_are_sure_and_as_rare_as_they_are(tagger: PartTagger) -> None:
    assert await tags_of(tagger, Text("", "an owl and a dog")) == {"owl": (1.0, 3.0), "dog": (1.0, 3.0)}


async def test_a_stored_image_has_its_own_tags(tagger: PartTagger) -> None:
    assert await tags_of(tagger, Stored("", "a")) == {"mine": (1.0, 4.0), "owl": (1.0, 3.0), "dog": (0.25, 3.0)}


async def test_a_stored_segment_has_its_own_tags(tagger: PartTagger) -> None:
    assert await tags_of(tagger, StoredSegment("", "a", 3)) == {"dog": (0.75, 3.0)}


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (Stored("parts[0].image_id", "b"), "parts[0].image_id"),
        (StoredSegment("parts[0].region", "a", 4), "parts[0].region.segment_index"),
        (StoredSegment("parts[0].region", "b", 0), "parts[0].region.segment_index"),
    ],
)
async def test_what_is_not_stored_has_no_tags(tagger: PartTagger, content: Content, field: str) -> None:
    with pytest.raises(NotFound) as caught:
        await tags_of(tagger, content)
    assert caught.value.field == field


async def test_tags_of_a_picture_are_the_embedders(tagger: PartTagger) -> None:
    with pytest.raises((Unavailable, DeadlineExceeded)):
        await tags_of(tagger, Upload("parts[0].image", b""))


async def test_a_model_without_a_text_tower_chooses_no_tags(tagger: PartTagger) -> None:
    deaf = COLLECTION.model_copy(update={"has_text": False})
    assert await tags_of(tagger, Upload("parts[0].image", b""), deaf, required=False) == {}
    with pytest.raises(FailedPrecondition) as caught:
        await tags_of(tagger, Upload("parts[0].image", b""), deaf)
    assert (caught.value.field, caught.value.reason) == ("parts[0].image", "NO_TEXT_TOWER")
    assert await tags_of(tagger, Text("", "owl"), deaf) == {"owl": (1.0, 3.0)}


async def test_without_a_vocabulary_a_picture_has_no_tags(tagger: PartTagger) -> None:
    other = COLLECTION.model_copy(update={"vocabulary": "none"})
    assert await tags_of(tagger, Upload("", b""), other) == {}
