from typing import Any, cast

import numpy as np
import pytest

from services.common.domain import Analysis, Box, Segment, Tag
from services.common.embedder_client import EmbedderClient
from services.common.objects import ObjectStore
from services.common.records import CollectionRecord, collection_key
from services.common.vectors import VectorStore
from services.ingest.collections import Collections
from services.ingest.dirt import DirtyMarks
from services.ingest.files import ImageFiles
from services.ingest.markers import MarkerStore
from services.ingest.pipeline import Moved, Pipeline, model_tags
from services.ingest.vocabulary import Vocabularies
from tests.unit.ingest.test_markers import RECORD

VECTOR = np.ones(1, np.float32)


def segment(index: int, *tags: Tag) -> Segment:
    return Segment(index, Box(0, 0, 1, 1), 1.0, 1.0, 1.0, tags=tags)


def test_a_tag_has_the_best_confidence_of_its_segments() -> None:
    segments = (
        segment(0, Tag("cat", "animals", 0.5), Tag("dog", "animals", 0.4)),
        segment(1, Tag("cat", "animals", 0.9)),
    )
    tags = model_tags(Analysis(VECTOR, segments, (Tag("indoors", "", 0.99),), 8, 8))
    assert [(tag.name, tag.category, tag.confidence) for tag in tags] == [
        ("cat", "animals", 0.9),
        ("dog", "animals", 0.4),
    ]


def test_without_segments_the_whole_image_counts() -> None:
    assert [tag.name for tag in model_tags(Analysis(VECTOR, (), (Tag("fog", "", 0.6),), 8, 8))] == ["fog"]


class _Rows:
    """An index that takes everything."""

    async def upsert_images(self, *_: Any) -> None: ...

    async def replace_segments(self, *_: Any) -> None: ...


async def test_tags_of_a_vocabulary_that_was_changed_meanwhile_are_chosen_anew(objects: ObjectStore) -> None:
    used = CollectionRecord(name="c", model="toy", fingerprint="f", dimension=1, vocabulary="general", created_at_ms=1)
    vectors, embedder = cast(VectorStore, _Rows()), cast(EmbedderClient, None)
    vocabularies = Vocabularies(objects, default="general")
    pipeline = Pipeline(
        files=ImageFiles(objects),
        vectors=vectors,
        embedder=embedder,
        vocabularies=vocabularies,
        collections=Collections(objects, vectors, embedder, vocabularies, MarkerStore(objects, lease_s=60), ttl_s=60),
        dirt=DirtyMarks(objects),
    )
    analysis = Analysis(VECTOR, (), (Tag("fog", "", 0.6),), 8, 8)
    await objects.put(collection_key("c"), used.to_bytes())
    done = await pipeline.make_segmented(used, RECORD, analysis)
    assert [tag.name for tag in done.model_tags] == ["fog"]
    await objects.put(collection_key("c"), used.model_copy(update={"vocabulary": "garden"}).to_bytes())
    with pytest.raises(Moved):
        await pipeline.make_segmented(used, RECORD, analysis)
