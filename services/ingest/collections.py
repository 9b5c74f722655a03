"""Collections: made, found, counted and removed. `collection.json` in the object store is the truth about each."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog
from pydantic import ValidationError

from services.common.embedder_client import EmbedderClient
from services.common.errors import Aborted, AlreadyExists, FailedPrecondition, Internal, InvalidArgument, NotFound
from services.common.objects import ObjectMissing, ObjectStore
from services.common.records import (
    COLLECTIONS,
    CollectionRecord,
    IndexSpec,
    check_collection_name,
    collection_key,
    dirty_prefix,
    image_prefix,
    pending_prefix,
    tuning_prefix,
)
from services.common.vectors import Generation, IndexMissing, VectorStore
from services.ingest.locks import KeyedLocks
from services.ingest.markers import MarkerStore, now_ms
from services.ingest.uninterrupted import Uninterrupted, detached_context
from services.ingest.vocabulary import Vocabularies

__all__ = ["Collections", "Counts", "NewCollection"]

_log = structlog.get_logger(__name__)

_READS_AT_ONCE: Final = 16
_PAGE: Final = 1_000
_ANNOUNCEMENTS: Final = 3


@dataclass(frozen=True, slots=True)
class NewCollection:
    """A collection to make; empty model and fingerprint: the embedder's own."""

    name: str
    description: str = ""
    model: str = ""
    fingerprint: str = ""
    index: IndexSpec = field(default_factory=IndexSpec)
    vocabulary: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """What is in a collection: images and segments that searches see, and images not finished (up to 10,000).

    Where the index has lost the collection it sees none.
    """

    images: int
    segments: int
    pending: int
    index_missing: bool = False


class Collections:
    """All collections.

    What was read of one is trusted for `ttl_s`; a deletion waits that long after it is announced, so that no replica
    begins to store into a collection that is going. Whoever had begun before asks again before it acknowledges, and
    takes back what it wrote. Two replicas that make the same name at the same moment both succeed, and the later record
    stays: the object store has no conditional write that every engine offers.
    """

    def __init__(
        self,
        objects: ObjectStore,
        vectors: VectorStore,
        embedder: EmbedderClient,
        vocabularies: Vocabularies,
        markers: MarkerStore,
        *,
        ttl_s: float,
    ) -> None:
        """Work on these stores; `ttl_s` is how long a record that was read is trusted."""
        self._objects = objects
        self._vectors = vectors
        self._embedder = embedder
        self._vocabularies = vocabularies
        self._markers = markers
        self._ttl_s = ttl_s
        self._known: dict[str, tuple[float, CollectionRecord]] = {}
        self._users: dict[str, int] = {}
        self._unused = asyncio.Condition()
        self._locks = KeyedLocks()
        self._steps = Uninterrupted()
        self._drops: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Let the steps in flight finish. A deletion that was not is finished by the next process."""
        drops = list(self._drops.values())
        for task in drops:
            task.cancel()
        await asyncio.gather(*drops, return_exceptions=True)
        await self._steps.close()

    async def get(self, name: str, path: str = "collection", *, anew: bool = False) -> CollectionRecord:
        """The collection of that name, read `anew` or lately; NotFound if there is none or it is being deleted."""
        read_at, record = self._known.get(name, (0.0, None))
        if anew or record is None or time.monotonic() - read_at > self._ttl_s:
            record = await self._read(check_collection_name(name, path))
        if record is None or record.deleting:
            raise NotFound(
                f"there is no collection {name!r}; make it with CreateCollection",
                field=path,
                reason="COLLECTION_NOT_FOUND",
            )
        return record

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[CollectionRecord]:
        """The collection, which this process does not remove as long as the block runs."""
        # Counted before it is looked up: a deletion that is announced in between finds this user.
        self._users[name] = self._users.get(name, 0) + 1
        try:
            yield await self.get(name)
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]
                async with self._unused:
                    self._unused.notify_all()

    async def create(self, new: NewCollection) -> CollectionRecord:
        """Make an empty collection under the embedder's model.

        Raises:
            AlreadyExists: the name is taken.
            NotFound: the vocabulary is unknown, or the embedder has another model than was asked for.
            FailedPrecondition: the embedder's fingerprint is another one, or the name is being deleted.
        """
        name = check_collection_name(new.name, "collection.name")
        await self._vocabularies.get(new.vocabulary, "collection.vocabulary")
        try:
            model = await self._embedder.get_model(new.model)
        except (NotFound, InvalidArgument) as exc:
            # The embedder's own field is named `model` too.
            raise type(exc)(exc.message, field="collection.model", reason=exc.reason) from exc
        if new.fingerprint and new.fingerprint != model.fingerprint:
            raise FailedPrecondition(
                f"the embedder's model {model.model!r} has the fingerprint {model.fingerprint}; leave fingerprint "
                "empty to take it, or run an embedder with the other one",
                field="collection.fingerprint",
                reason="MODEL_MISMATCH",
            )
        record = CollectionRecord(
            name=name,
            description=new.description,
            model=model.model,
            fingerprint=model.fingerprint,
            dimension=model.dimension,
            has_text=model.has_text,
            index=new.index,
            vocabulary=new.vocabulary,
            created_at_ms=now_ms(),
        )
        try:
            await self._vectors.check_index(Generation.of(record))
        except FailedPrecondition as exc:
            raise exc.at("collection") from exc
        await self._steps.run(self._make(record))
        return record

    async def page(
        self, *, start_after: str, limit: int, visible: Callable[[str], bool] = lambda _: True
    ) -> tuple[list[CollectionRecord], str]:
        """Up to `limit` collections by name from behind `start_after`, and where to go on; empty at the end.

        Those that are not visible are passed over; neither their records nor their names leave this method.
        """
        names: list[str] = []
        while len(names) <= limit:
            listed = await self._objects.list_folders(COLLECTIONS, start_after=start_after, limit=limit + 1)
            names += filter(visible, listed)
            if len(listed) <= limit:
                break
            start_after = listed[-1]
        wanted = names[:limit]
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(name: str) -> CollectionRecord | None:
            async with slots:
                return await self._read(name)

        records = await asyncio.gather(*(read(name) for name in wanted))
        found = [record for record in records if record is not None and not record.deleting]
        return found, wanted[-1] if len(names) > limit else ""

    async def counts(self, record: CollectionRecord) -> Counts:
        """What is in the collection now."""
        generation = Generation.of(record)
        pending = await self._markers.count(record.name)
        try:
            images, segments = await asyncio.gather(
                self._vectors.count_images(generation), self._vectors.count_segments(generation)
            )
        except IndexMissing:
            return Counts(0, 0, pending, index_missing=True)
        return Counts(images, segments, pending)

    async def delete(self, name: str, *, force: bool) -> None:
        """Remove a collection and everything in it.

        It is gone for callers at once, and for good when this returns; if this is interrupted, a reconciler goes on.

        Raises:
            NotFound: there is none.
            FailedPrecondition: it holds images, and `force` is not set.
        """
        if await self._read(check_collection_name(name, "name")) is None:
            raise NotFound(f"there is no collection {name!r}", field="name", reason="COLLECTION_NOT_FOUND")
        # A job of another replica may write the record at the same moment, and so take the announcement back.
        for _ in range(_ANNOUNCEMENTS):
            await self._steps.run(self._announce(name, force=force))
            await asyncio.shield(self.drop(name))
            if await self._read(name) is None:
                return
        raise Aborted(f"the collection {name!r} is changed all the time; try again in a moment")

    def drop(self, name: str) -> asyncio.Task[None]:
        """Remove what is left of a collection that is marked as deleting; one task for each name at a time."""
        task = self._drops.get(name)
        if task is None:
            task = asyncio.create_task(self._drop(name), name=name, context=detached_context())
            self._drops[name] = task
            task.add_done_callback(self._dropped)
        return task

    def _dropped(self, task: asyncio.Task[None]) -> None:
        del self._drops[task.get_name()]
        # Whoever asked for it may have left.
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("collection not deleted", collection=task.get_name(), why=str(error))

    async def all_names(self) -> AsyncIterator[str]:
        """Names of everything that lies where collections lie, whatever its state."""
        after = ""
        while True:
            names = await self._objects.list_folders(COLLECTIONS, start_after=after, limit=_PAGE)
            for name in names:
                yield name
            if len(names) < _PAGE:
                return
            after = names[-1]

    async def peek(self, name: str) -> CollectionRecord | None:
        """The record as it stands, also of a collection that is being deleted; None if there is none."""
        return await self._read(name)

    async def _make(self, record: CollectionRecord) -> None:
        async with self._locks.hold(record.name):
            standing = await self._read(record.name)
            if standing is not None and standing.deleting:
                raise FailedPrecondition(
                    f"the collection {record.name!r} is being deleted; try again in a moment",
                    field="collection.name",
                    reason="COLLECTION_DELETING",
                )
            if standing is not None:
                raise AlreadyExists(
                    f"the collection {record.name!r} exists", field="collection.name", reason="COLLECTION_EXISTS"
                )
            generation = Generation.of(record)
            # Without a record, rows under this name are left over from something interrupted.
            await self._vectors.drop_collection(record.name)
            await self._vectors.create_generation(generation)
            await self._vectors.activate(generation)
            # Last: a collection that can be found is complete.
            await self._write(record)

    async def change(
        self, name: str, changed: Callable[[CollectionRecord], CollectionRecord]
    ) -> CollectionRecord | None:
        """Write the record that `changed` makes of the present one; as written, None if the collection is going.

        `changed` may return what it was given, and then nothing is written; what it raises comes through. Another
        replica that writes at the same moment is not seen: look again later whether the change has stayed.
        """
        return await self._steps.run(self._change(name, changed))

    async def _change(
        self, name: str, changed: Callable[[CollectionRecord], CollectionRecord]
    ) -> CollectionRecord | None:
        async with self._locks.hold(name):
            record = await self._read(name)
            if record is None or record.deleting:
                return None
            wanted = changed(record)
            if wanted is not record:
                await self._write(wanted)
            return wanted

    async def _announce(self, name: str, *, force: bool) -> None:
        async with self._locks.hold(name):
            record = await self._read(name)
            if record is None or (record.deleting and (record.delete_forced or not force)):
                return
            if not force:
                await self._refuse_unless_empty(name)
            await self._write(record.model_copy(update={"deleting": True, "delete_forced": force}))

    async def _refuse_unless_empty(self, name: str) -> None:
        images, pending = await asyncio.gather(
            self._objects.list_folders(image_prefix(name), limit=1), self._objects.list(pending_prefix(name), limit=1)
        )
        if images or pending:
            raise FailedPrecondition(
                f"the collection {name!r} holds images; delete them first, or set force",
                field="force",
                reason="COLLECTION_NOT_EMPTY",
            )

    async def _wait_until_unused(self, name: str) -> None:
        async with self._unused:
            await self._unused.wait_for(lambda: name not in self._users)

    async def _drop(self, name: str) -> None:
        await self._wait_until_unused(name)
        # Other replicas trust what they read for so long.
        await asyncio.sleep(self._ttl_s)
        async with self._locks.hold(name):
            record = await self._read(name)
            if record is None or not record.deleting:
                return
            if not record.delete_forced:
                await self._take_back_unless_empty(record)
            await self._vectors.drop_collection(name)
            await self._objects.delete_prefix(image_prefix(name))
            await self._objects.delete_prefix(pending_prefix(name))
            await self._objects.delete_prefix(dirty_prefix(name))
            await self._objects.delete_prefix(tuning_prefix(name))
            await self._objects.delete(collection_key(name))
            self._known.pop(name, None)
        _log.info("collection deleted", collection=name)

    async def _take_back_unless_empty(self, record: CollectionRecord) -> None:
        """An image that came in while the deletion was announced ends it."""
        try:
            await self._refuse_unless_empty(record.name)
        except FailedPrecondition:
            await self._write(record.model_copy(update={"deleting": False}))
            raise

    async def _read(self, name: str) -> CollectionRecord | None:
        try:
            data = await self._objects.get(collection_key(name))
            record = CollectionRecord.model_validate_json(data)
        except ObjectMissing:
            self._known.pop(name, None)
            return None
        except ValidationError as exc:
            raise Internal(f"the record of the collection {name!r} can not be read") from exc
        self._known[name] = (time.monotonic(), record)
        return record

    async def _write(self, record: CollectionRecord) -> None:
        await self._objects.put(collection_key(record.name), record.to_bytes(), content_type="application/json")
        self._known[record.name] = (time.monotonic(), record)
