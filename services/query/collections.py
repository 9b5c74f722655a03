"""What query knows of collections and vocabularies: records read from the object store, a moment old at most."""

from typing import Final

from pydantic import ValidationError

from services.common.cache import TtlCache
from services.common.errors import Internal, NotFound
from services.common.objects import ObjectMissing, ObjectStore
from services.common.records import (
    CollectionRecord,
    TuningRecord,
    VocabularyRecord,
    collection_key,
    tuning_key,
    vocabulary_key,
)
from services.common.vectors import Generation

__all__ = ["Collections"]

# Measured again only as a collection grows.
_TUNING_FRESH_S: Final = 10.0
# How long what is known is used where the object store does not answer.
_STALE_S: Final = 600.0


class Collections:
    """Collections and vocabularies by name. Safe for concurrent use."""

    _SIZE: Final = 1_024

    def __init__(self, objects: ObjectStore, *, ttl_s: float, vocabulary: str) -> None:
        """Read from `objects`, at most `ttl_s` seconds late; `vocabulary` is that of collections that name none."""
        self._objects = objects
        self._vocabulary = vocabulary
        # Nobody can change them while the object store is down.
        self._records = TtlCache(self._load_collection, ttl_s=ttl_s, size=self._SIZE, stale_s=_STALE_S)
        self._tunings = TtlCache(self._load_tuning, ttl_s=_TUNING_FRESH_S, size=self._SIZE, stale_s=_STALE_S)
        self._vocabularies = TtlCache(self._load_vocabulary, ttl_s=ttl_s, size=self._SIZE, stale_s=_STALE_S)

    async def get(self, name: str) -> CollectionRecord:
        """A collection's record; NotFound names `collection`."""
        return await self._records.get(name)

    def is_stale(self, name: str) -> bool:
        """Whether what `get` gave last is old because the object store does not answer."""
        return self._records.is_stale(name)

    def forget(self, name: str) -> None:
        """What is known of a collection turned out to be old: read it anew."""
        self._records.forget(name)

    async def vocabulary_of(self, record: CollectionRecord) -> VocabularyRecord | None:
        """The vocabulary that a collection's tags are chosen from; None if it is not there."""
        return await self._vocabularies.get(record.vocabulary or self._vocabulary)

    async def tuning_of(self, generation: Generation) -> TuningRecord | None:
        """What was measured of a generation's index; None if nothing was."""
        return await self._tunings.get((generation.collection, generation.number))

    async def _load_tuning(self, of: tuple[str, int]) -> TuningRecord | None:
        try:
            data = await self._objects.get(tuning_key(*of))
            return TuningRecord.model_validate_json(data)
        except (ObjectMissing, ValidationError):
            # Searches then take what is enough for most data.
            return None

    async def _load_collection(self, name: str) -> CollectionRecord:
        missing = NotFound(
            f"there is no collection {name!r}; make it first, or list those there are",
            field="collection",
            reason="COLLECTION_NOT_FOUND",
        )
        try:
            data = await self._objects.get(collection_key(name))
        except ObjectMissing as exc:
            raise missing from exc
        try:
            record = CollectionRecord.model_validate_json(data)
        except ValidationError as exc:
            raise Internal(f"the record of collection {name!r} can not be read") from exc
        if record.deleting:
            raise missing
        return record

    async def _load_vocabulary(self, name: str) -> VocabularyRecord | None:
        try:
            data = await self._objects.get(vocabulary_key(name))
        except ObjectMissing:
            return None
        try:
            return VocabularyRecord.model_validate_json(data)
        except ValidationError as exc:
            raise Internal(f"vocabulary {name!r} can not be read") from exc
