"""Images as callers change them: stored, changed and removed.

Whatever is acknowledged here is in the object store, together with a marker where the index still has to follow; so the
rest may fail, and is finished without the caller.
"""

import asyncio
import dataclasses
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import structlog

from services.common.deadline import time_left_s
from services.common.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidImage,
    NotFound,
    SaccadeError,
    Unavailable,
)
from services.common.fetch import ImageFetcher
from services.common.records import CollectionRecord, ImageRecord, ImageState, check_image_id
from services.common.vectors import IndexMissing
from services.ingest import metrics
from services.ingest.check import NewImage
from services.ingest.collections import Collections
from services.ingest.files import ImageFiles, RecordDamaged, no_image
from services.ingest.indexer import Indexer
from services.ingest.intake import Content, Intake
from services.ingest.locks import KeyedLocks
from services.ingest.markers import Marker, MarkerStore, Op, now_ms
from services.ingest.pipeline import Pipeline
from services.ingest.solitude import IMAGE_CRASHES
from services.ingest.uninterrupted import Uninterrupted
from services.ingest.work import Key, Work
from services.ingest.worker import NO_SEGMENTER

__all__ = ["Changes", "Library", "Stored"]

_log = structlog.get_logger(__name__)

STORED_NOT_INDEXED: Final = "STORED_NOT_INDEXED"
# With these the image that was waited for is no longer there.
_GONE: Final = frozenset({"IMAGE_CHANGED", "IMAGE_NOT_FOUND", "COLLECTION_NOT_FOUND"})
# Share of a call's time that waiting may take, so that what it ends with can still be told.
_WAIT_SHARE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Stored:
    """An image after a call that stored it; `existed` where its content stood there already."""

    record: ImageRecord
    existed: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """What to change of an image; None: leave it.

    `confidences` are those that `user_tags` came with, where a caller sends them as it read them.
    """

    title: str | None = None
    metadata: dict[str, Any] | None = None
    user_tags: tuple[str, ...] | None = None
    source: str | None = None
    confidences: Mapping[str, float] = field(default_factory=dict)

    def applied(self, record: ImageRecord) -> ImageRecord:
        """The record with the changes, a new etag and time; the record itself if it says all that already."""
        fields = ("title", "metadata", "user_tags", "source")
        wanted = {name: value for name in fields if (value := getattr(self, name)) is not None}
        if self.user_tags is not None:
            wanted["user_tags"] = self._own_tags(record)
        if all(_as_json(getattr(record, name)) == _as_json(value) for name, value in wanted.items()):
            return record
        return record.model_copy(update={**wanted, "etag": _new_etag(), "updated_at_ms": now_ms()})

    def _own_tags(self, record: ImageRecord) -> tuple[str, ...]:
        """The tags without those that the record has from the model alone, with just that confidence."""
        # As a message carries it: a model that is sure says 1, as a person does.
        models = {tag.name: np.float32(tag.confidence) for tag in record.model_tags if tag.name not in record.user_tags}
        return tuple(
            name for name in self.user_tags or () if name not in models or self.confidences.get(name) != models[name]
        )


class Library:
    """Stores, changes and removes images of all collections."""

    def __init__(
        self,
        *,
        files: ImageFiles,
        pipeline: Pipeline,
        intake: Intake,
        fetcher: ImageFetcher,
        collections: Collections,
        markers: MarkerStore,
        indexer: Indexer,
        locks: KeyedLocks,
        steps: Uninterrupted,
        max_wait_s: float,
    ) -> None:
        """Work on these; `max_wait_s` is the longest that a call waits for an image to be indexed."""
        self._files = files
        self._pipeline = pipeline
        self._intake = intake
        self._fetcher = fetcher
        self._collections = collections
        self._markers = markers
        self._indexer = indexer
        self._locks = locks
        self._steps = steps
        self._max_wait_s = max_wait_s

    async def create(
        self, collection: str, new: NewImage, *, wait_for: ImageState, replace: bool, interactive: bool
    ) -> Stored:
        """Store an image, and wait until it has come as far as `wait_for`.

        The same content under the same id changes nothing; with `replace` its title, metadata and tags are taken over.

        Raises:
            NotFound: there is no such collection.
            InvalidArgument: the image or the address it comes from can not be used.
            AlreadyExists: the id stands for other content, and `replace` is not set.
            SaccadeError: with reason STORED_NOT_INDEXED: it is stored, but did not come as far as was asked for yet.
            FailedPrecondition: with reason NO_SEGMENTER: it is stored and searchable, and comes no further here.
            InvalidImage: it is stored, but the embedder refuses it.
            Aborted: it was stored, and somebody replaced it before it had come so far.
            NotFound: it was stored, and somebody removed it, or the collection, before it had come so far.
        """
        await self._collections.get(collection)
        data, field = new.data, "image.data"
        if new.url:
            field = "image.url"
            with metrics.stage("fetch"):
                data = await self._fetcher.fetch(new.url, field=field)
        with metrics.stage("check"):
            content = await self._intake.inspect(data, field)
        key = (collection, new.id or content.derived_id)
        with metrics.stage("store"):
            stored, work = await self._steps.run(
                self._store(key, new, content, replace=replace, wait_for=wait_for, interactive=interactive)
            )
        metrics.IMAGES.labels("existed" if stored.existed else "stored").inc()
        if wait_for is ImageState.DURABLE or stored.record.state in {wait_for, ImageState.SEGMENTED}:
            return stored
        return Stored(await self._wait(work, wait_for), stored.existed)

    async def update(self, collection: str, image_id: str, etag: str, changes: Changes) -> ImageRecord:
        """Change an image; its record then. The index follows, at once or, where it is away, later without a retry.

        Raises:
            NotFound: there is none.
            Aborted: `etag` is set and not the present one.
        """
        await self._collections.get(collection, "image.collection")
        key = (collection, check_image_id(image_id, "image.id"))
        return await self._steps.run(self._change(key, etag, changes))

    async def delete(self, collection: str, image_id: str, *, allow_missing: bool) -> None:
        """Remove an image, its objects and its vectors.

        Raises:
            NotFound: there is none, and `allow_missing` is not set.
            SaccadeError: a dependency is away; the deletion is recorded, and goes on without a retry.
        """
        await self._collections.get(collection)
        key = (collection, check_image_id(image_id))
        if not await self._steps.run(self._remove(key)) and not allow_missing:
            raise no_image(*key)

    async def _store(
        self, key: Key, new: NewImage, content: Content, *, replace: bool, wait_for: ImageState, interactive: bool
    ) -> tuple[Stored, Work | None]:
        async with self._collections.use(key[0]) as owner, self._locks.hold(key):
            record, marker = await self._standing(key, mend=replace)
            if marker is not None and marker.op is Op.DELETE:
                await self._erase(key, owner)
                record = marker = None
            existed = record is not None and record.sha256 == content.sha256
            if record is not None and not existed and not replace:
                raise AlreadyExists(
                    f"the image {key[1]!r} exists with other content; choose another id, or set replace",
                    field="image.id",
                    reason="IMAGE_EXISTS",
                )
            whole = existed and record is not None and await self._files.has_original(key[0], record)
            if record is None or not whole or _interrupted(record, marker):
                if record is not None and existed and not replace:
                    new = _worded_as(record, new)
                record, marker = await self._write(key, new, content, record, marker)
                await self._confirm(key)
            else:
                if replace:
                    record = await self._write_change(key, owner, record, marker, _all_of(new))
                record, marker = await self._resumed(key, record, marker)
            if record.state is ImageState.SEGMENTED:
                return Stored(record, existed), None
            work = self._indexer.start(
                key, marker=marker, data=content.data, wait_for=wait_for, interactive=interactive
            )
            return Stored(record, existed), work

    async def _confirm(self, key: Key) -> None:
        """NotFound if another replica has removed the collection meanwhile; what was just stored is taken back then."""
        try:
            await self._collections.get(key[0], anew=True)
        except NotFound:
            await self._files.delete(*key)
            await self._markers.remove(*key)
            raise

    async def _write(
        self, key: Key, new: NewImage, content: Content, old: ImageRecord | None, standing: Marker | None
    ) -> tuple[ImageRecord, Marker]:
        """Store an image's objects over those of `old` and what `standing` is about; record, and marker as held."""
        now = now_ms()
        record = ImageRecord(
            id=key[1],
            state=ImageState.DURABLE,
            content_type=content.info.content_type,
            size_bytes=len(content.data),
            width=content.info.width,
            height=content.info.height,
            sha256=content.sha256,
            stored_sha256=content.stored_sha256,
            source=new.source,
            title=new.title,
            metadata=new.metadata,
            user_tags=new.tags,
            created_at_ms=old.created_at_ms if old is not None else now,
            updated_at_ms=now,
            etag=_new_etag(),
        )
        self._indexer.stop(key, Aborted("the image was replaced meanwhile", reason="IMAGE_CHANGED"))
        # Not removed here: the image is stored, and acknowledged, also where the index is away.
        stale = old is not None or standing is not None
        marker = await self._markers.hold(*key, Marker(intent=record, stale=stale))
        await self._files.write_content(key[0], record, content.data, content.thumbnail)
        await self._files.write(key[0], record)
        return record, marker.model_copy(update={"intent": None})

    async def _resumed(self, key: Key, record: ImageRecord, marker: Marker | None) -> tuple[ImageRecord, Marker | None]:
        """An image that is stored again: where it was not finished, it is taken up, also after a failure for good."""
        failed = record.state is ImageState.FAILED
        if record.state is ImageState.SEGMENTED or (self._indexer.works_on(key) and not failed):
            return record, None
        held = await self._markers.hold(*key, marker or Marker())
        if failed:
            again = {"state": ImageState.DURABLE, "failure": "", "failure_reason": ""}
            record = record.model_copy(update=again)
            await self._files.write(key[0], record)
        return record, held

    async def _change(self, key: Key, etag: str, changes: Changes) -> ImageRecord:
        async with self._collections.use(key[0]) as owner, self._locks.hold(key):
            record, marker = await self._standing(key)
            if record is None or (marker is not None and marker.op is Op.DELETE):
                raise no_image(*key, "image.id")
            if _interrupted(record, marker):
                self._indexer.start(key)
                raise Unavailable("the image is being restored after an interruption; try again in a moment")
            if etag and etag != record.etag:
                raise Aborted("the image has changed since it was read; read it again", field="image.etag")
            return await self._write_change(key, owner, record, marker, changes)

    async def _write_change(
        self, key: Key, owner: CollectionRecord, record: ImageRecord, marker: Marker | None, changes: Changes
    ) -> ImageRecord:
        """Change the record; the rows follow, now or, where the index is away, under a marker."""
        changed = changes.applied(record)
        if changed is record:
            return record
        if changed.failure_reason == IMAGE_CRASHES:
            # Perhaps it was another one that took the embedder down, or its fault is mended.
            changed = changed.model_copy(update={"state": ImageState.DURABLE, "failure": "", "failure_reason": ""})
        # Where the image is not done, its marker stands and its work looks at the record again. Without a segmenter
        # SEARCHABLE is done, and nothing stands.
        settled = marker is None or record.state in {ImageState.SEGMENTED, ImageState.FAILED}
        held = await self._markers.hold(*key, marker or Marker()) if settled else None
        await self._files.write(key[0], changed)
        try:
            complete = await self._pipeline.refresh(owner, changed)
            followed = changed.state is ImageState.FAILED or (complete and changed.state is not ImageState.DURABLE)
        except SaccadeError as exc:
            _log.warning("rows follow later", collection=key[0], image=key[1], why=exc.message)
            followed = False
        if held is not None and followed:
            await self._markers.remove(*key)
        elif held is not None:
            self._indexer.start(key, marker=held)
        return changed

    async def _remove(self, key: Key) -> bool:
        """Whether there was anything of such an image; afterwards there is nothing."""
        async with self._collections.use(key[0]) as owner, self._locks.hold(key):
            record, marker = await self._standing(key, mend=True)
            if record is None and marker is None:
                return False
            self._indexer.stop(key, NotFound("the image was removed meanwhile", reason="IMAGE_NOT_FOUND"))
            tombstone = await self._markers.hold(*key, Marker(op=Op.DELETE))
            try:
                await self._erase(key, owner)
            except SaccadeError as exc:
                await self._markers.release(*key, tombstone)
                raise type(exc)(
                    f"the deletion is recorded and goes on without a retry; {exc.message}", reason=exc.reason
                ) from exc
            metrics.IMAGES.labels("deleted").inc()
            return True

    async def _erase(self, key: Key, owner: CollectionRecord) -> None:
        await self._pipeline.erase(owner, key[1])
        await self._markers.remove(*key)

    async def _standing(self, key: Key, *, mend: bool = False) -> tuple[ImageRecord | None, Marker | None]:
        """The record and the marker; with `mend` a damaged record is none, but something that was begun."""
        try:
            return await asyncio.gather(self._files.read(*key), self._markers.get(*key))
        except RecordDamaged:
            if not mend:
                raise
            return None, await self._markers.get(*key) or Marker()

    async def _wait(self, work: Work | None, state: ImageState) -> ImageRecord:
        """The record once the image has come as far as asked; errors say that it is stored all the same."""
        try:
            if work is None:
                raise Unavailable("the service stops")
            async with asyncio.timeout(time_left_s(self._max_wait_s) * _WAIT_SHARE):
                return await work.reached(state)
        except TimeoutError as exc:
            raise DeadlineExceeded(
                "the image is stored, and will be indexed without a retry; it took longer than the call allows",
                reason=STORED_NOT_INDEXED,
            ) from exc
        except InvalidImage as exc:
            raise InvalidImage(
                f"the image is stored, but can not be indexed: {exc.message}", field="image", reason=exc.reason
            ) from exc
        except SaccadeError as exc:
            if exc.reason in _GONE:
                raise
            if exc.reason == NO_SEGMENTER:
                raise FailedPrecondition(
                    f"the image is stored and searchable, but not segmented: {exc.message}",
                    field="wait_for",
                    reason=NO_SEGMENTER,
                ) from exc
            # That the index has lost the collection does not mean that the caller asks for what is not there.
            kind = FailedPrecondition if isinstance(exc, IndexMissing) else type(exc)
            raise kind(
                f"the image is stored, and will be indexed without a retry; {exc.message}",
                reason=STORED_NOT_INDEXED,
                retry_after_s=exc.retry_after_s,
            ) from exc
        except Exception as exc:
            raise Internal(
                "the image is stored, and will be indexed without a retry; the service's log has the error",
                reason=STORED_NOT_INDEXED,
            ) from exc


def _interrupted(record: ImageRecord, marker: Marker | None) -> bool:
    """Whether the bytes that lie there may be those of a replacement that never came to its end."""
    return marker is not None and marker.replaces(record)


def _all_of(new: NewImage) -> Changes:
    return Changes(title=new.title, metadata=new.metadata, user_tags=new.tags, source=new.source)


def _worded_as(record: ImageRecord, new: NewImage) -> NewImage:
    """The image with the words that the record has."""
    return dataclasses.replace(
        new, title=record.title, metadata=record.metadata, tags=record.user_tags, source=record.source
    )


def _as_json(value: Any) -> str:
    """What tells values apart as the contract does; for Python, 1 is True."""
    return json.dumps(value, sort_keys=True)


def _new_etag() -> str:
    return secrets.token_hex(8)
