"""Words of a query's parts: named in a text, carried by what is stored, or chosen for a vector."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from services.common.domain import Lane, VocabularyEntry
from services.common.embedder_client import EmbedderClient
from services.common.errors import FailedPrecondition, NotFound, Unavailable
from services.common.objects import ObjectMissing, ObjectStore
from services.common.records import (
    CollectionRecord,
    ImageRecord,
    SegmentsRecord,
    VocabularyRecord,
    record_key,
    segments_key,
)
from services.common.vectors import Generation
from services.query.collections import Collections
from services.query.concurrency import together
from services.query.domain import QueryPart, Stored, StoredSegment, Text
from services.query.ranking import PartVectors
from services.query.tags import TagCounter

__all__ = ["PartTagger", "named_words", "needs_vectors"]

# Tags of one part: those that count most.
_MOST_TAGS: Final = 64
_SPACES: Final = re.compile(r"[\s,.;:!?]+")


def needs_vectors(part: QueryPart) -> bool:
    """Whether a part's tags are chosen for its vectors."""
    return not isinstance(part.content, Text | Stored | StoredSegment)


def named_words(text: str, vocabulary: VocabularyRecord | None) -> list[str]:
    """Words of the vocabulary that a text names, whole and in any case, a longer one before those within it.

    A text that names none is a word itself, such as a tag that a person gave.
    """
    left = f" {' '.join(_SPACES.split(text.lower())).strip()} "
    found = []
    for entry in sorted(vocabulary.entries if vocabulary else (), key=lambda entry: -len(entry.name)):
        words = f" {' '.join(_SPACES.split(entry.name.lower())).strip()} "
        if words in left:
            found.append(entry.name)
            left = left.replace(words, "  ")
    return found or [text.strip()]


class PartTagger:
    """Gives parts their tags. Safe for concurrent use."""

    def __init__(
        self, collections: Collections, objects: ObjectStore, embedder: EmbedderClient, counter: TagCounter
    ) -> None:
        """Ask these."""
        self._collections = collections
        self._objects = objects
        self._embedder = embedder
        self._counter = counter

    async def tagged(
        self,
        parts: Sequence[QueryPart],
        vectors: Sequence[PartVectors],
        collection: CollectionRecord,
        *,
        required: bool,
        lane: Lane = Lane.INTERACTIVE,
    ) -> tuple[tuple[PartVectors, ...], tuple[str, ...]]:
        """The parts' vectors with their tags; those of a text or of something stored need no embedder.

        Args:
            parts: The query's parts.
            vectors: Theirs.
            collection: Whose vocabulary counts.
            required: Whether nothing but tags is searched by.
            lane: In which the embedder is asked.

        Returns:
            The parts, and what was left out of them: tags that the embedder should have chosen and was not there to.

        Raises:
            Unavailable: required tags are to be chosen, and the embedder is not there.
            NotFound: a stored image or segment is not there.
            FailedPrecondition: required tags are to be chosen by a model without a text tower.
        """
        vocabulary = await self._collections.vocabulary_of(collection)
        missing: list[str] = []

        async def tags(part: QueryPart, made: PartVectors) -> Mapping[str, float]:
            try:
                return await self._tags(part, made, vocabulary, collection, required=required, lane=lane)
            except Unavailable as exc:
                if required:
                    raise
                missing.append(f"tags of {part.content.field}: {exc.message}")
                return {}

        found = await together(tags(part, made) for part, made in zip(parts, vectors, strict=True))
        rarity = await self._counter.rarity(Generation.of(collection), {name for tags in found for name in tags})
        tagged = tuple(
            replace(made, tags={name: (confidence, rarity[name]) for name, confidence in carried.items()})
            for made, carried in zip(vectors, found, strict=True)
        )
        return tagged, tuple(missing)

    async def _tags(
        self,
        part: QueryPart,
        made: PartVectors,
        vocabulary: VocabularyRecord | None,
        collection: CollectionRecord,
        *,
        required: bool,
        lane: Lane,
    ) -> Mapping[str, float]:
        match part.content:
            case Text(text=text):
                return dict.fromkeys(named_words(text, vocabulary), 1.0)
            case Stored(field=field, image_id=image_id):
                return await self._of_image(collection.name, image_id, field)
            case StoredSegment(field=field, image_id=image_id, index=index):
                return await self._of_segment(collection.name, image_id, index, field)
        if not collection.has_text and not required:
            return {}
        return await self._chosen(part.content.field, made, vocabulary, collection, lane)

    async def _of_image(self, collection: str, image_id: str, field: str) -> Mapping[str, float]:
        try:
            record = ImageRecord.model_validate_json(await self._objects.get(record_key(collection, image_id)))
        except ObjectMissing as exc:
            raise NotFound(f"the collection has no image {image_id!r}", field=field, reason="IMAGE_NOT_FOUND") from exc
        return _best((tag.name, tag.confidence) for tag in record.tags)

    async def _of_segment(self, collection: str, image_id: str, index: int, field: str) -> Mapping[str, float]:
        try:
            record = SegmentsRecord.model_validate_json(await self._objects.get(segments_key(collection, image_id)))
            segment = next(segment for segment in record.segments if segment.index == index)
        except (ObjectMissing, StopIteration) as exc:
            raise NotFound(
                f"image {image_id!r} has no segment with index {index}, or not yet",
                field=f"{field}.segment_index",
                reason="SEGMENT_NOT_FOUND",
            ) from exc
        return _best((tag.name, tag.confidence) for tag in segment.tags)

    async def _chosen(
        self,
        field: str,
        made: PartVectors,
        vocabulary: VocabularyRecord | None,
        collection: CollectionRecord,
        lane: Lane,
    ) -> Mapping[str, float]:
        if vocabulary is None:
            return {}
        if not collection.has_text:
            raise FailedPrecondition(
                f"the collection's model {collection.model} has no text tower to choose tags by; name tags in a text",
                field=field,
                reason="NO_TEXT_TOWER",
            )
        chosen = await self._embedder.choose_tags(
            made.segments,
            made.areas.tolist(),
            [VocabularyEntry(entry.name, entry.category) for entry in vocabulary.entries],
            vocabulary.prompt_templates,
            model=collection.model,
            lane=lane,
            fingerprint=collection.fingerprint,
        )
        return _best((tag.name, tag.confidence) for tags in chosen for tag in tags)


def _best(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Each name once, with its greatest confidence; those that count most, most confident first."""
    best: dict[str, float] = {}
    for name, confidence in pairs:
        best[name] = max(best.get(name, 0.0), confidence)
    order = sorted(best, key=lambda name: (-best[name], name))[:_MOST_TAGS]
    return {name: best[name] for name in order if best[name] > 0}
