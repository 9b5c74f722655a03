"""What query knows of collections and vocabularies: records read from the object store, a moment old at most."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from pydantic import ValidationError

from services.common.errors import Internal, NotFound
from services.common.objects import ObjectMissing, ObjectStore
from services.common.records import CollectionRecord, VocabularyRecord, collection_key, vocabulary_key

__all__ = ["Collections", "TtlCache"]

_T = TypeVar("_T")


class TtlCache(Generic[_T]):
    """Loaded values by name; at most `size`, none used when older than `ttl_s`. What fails to load is not kept."""

    def __init__(self, load: Callable[[str], Awaitable[_T]], *, ttl_s: float, size: int) -> None:
        """Cache what `load` gives."""
        self._load = load
        self._ttl_s = ttl_s
        self._size = size
        self._kept: dict[str, tuple[float, _T]] = {}

    async def get(self, name: str) -> _T:
        """The value, loaded if need be."""
        now = asyncio.get_running_loop().time()
        kept = self._kept.get(name)
        if kept and now - kept[0] < self._ttl_s:
            return kept[1]
        self._kept.pop(name, None)
        value = await self._load(name)
        # The time before the load: the value is at least that fresh.
        self._kept[name] = (now, value)
        if len(self._kept) > self._size:
            self._kept.pop(next(iter(self._kept)))
        return value

    def forget(self, name: str) -> None:
        """Load the value anew when it is next asked for."""
        self._kept.pop(name, None)


class Collections:
    """Collections and vocabularies by name. Safe for concurrent use."""

    _SIZE: Final = 1_024

    def __init__(self, objects: ObjectStore, *, ttl_s: float) -> None:
        """Read from `objects`, at most `ttl_s` seconds late."""
        self._objects = objects
        self._records = TtlCache(self._load_collection, ttl_s=ttl_s, size=self._SIZE)
        self._vocabularies = TtlCache(self._load_vocabulary, ttl_s=ttl_s, size=self._SIZE)

    async def get(self, name: str) -> CollectionRecord:
        """A collection's record; NotFound names `collection`."""
        return await self._records.get(name)

    def forget(self, name: str) -> None:
        """What is known of a collection turned out to be old: read it anew."""
        self._records.forget(name)

    async def vocabulary(self, name: str) -> VocabularyRecord | None:
        """A vocabulary; None if it is not there."""
        return await self._vocabularies.get(name)

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
