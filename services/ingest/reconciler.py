"""Finishes what was interrupted: in every replica, at the start and every few seconds."""

import asyncio

import structlog

from services.common.embedder_client import EmbedderClient
from services.common.errors import SaccadeError
from services.common.records import CollectionRecord
from services.common.vectors import Generation, VectorStore
from services.ingest import metrics
from services.ingest.collections import Collections
from services.ingest.indexer import Indexer
from services.ingest.jobs.following import Following
from services.ingest.jobs.growth import Growth
from services.ingest.markers import MarkerStore, Op

__all__ = ["Reconciler"]

_log = structlog.get_logger(__name__)

# Markers of one collection that one round looks at; the next round goes on behind them.
_LOOK_AT = 256
# While the segmenter has enough to do most of what stands waits for it alone; few are taken, to find those that do not.
_TAKE_WHEN_FULL = 8
_BUSY_PAUSE_S = 0.25


class Reconciler:
    """Looks through the markers, takes those that nobody works on, and goes on with half-done deletions."""

    def __init__(
        self,
        collections: Collections,
        markers: MarkerStore,
        indexer: Indexer,
        embedder: EmbedderClient,
        vectors: VectorStore,
        *,
        following: Following,
        growth: Growth,
        scan_s: float,
    ) -> None:
        """Make it idle; `scan_s` is the pause after a round that found nothing to do."""
        self._collections = collections
        self._markers = markers
        self._indexer = indexer
        self._embedder = embedder
        self._vectors = vectors
        self._following = following
        self._growth = growth
        self._scan_s = scan_s
        self._cursors: dict[str, str] = {}
        # Why each collection's images wait, so that it is told once.
        self._waits: dict[str, str] = {}
        self._counted: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, with a round at once."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Take nothing more. What was taken goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def round(self) -> int:
        """Look once through all collections; how many images were taken."""
        taken = 0
        seen = set()
        async for name in self._collections.all_names():
            try:
                record = await self._collections.peek(name)
                if record is not None and record.deleting:
                    # It goes on beside the rounds; the next one asks again where it fails.
                    self._collections.drop(name)
                elif record is not None:
                    seen.add(name)
                    metrics.PENDING.labels(name).set(await self._markers.count(name))
                    taken += await self._collection(record)
                    if not record.job:
                        # Left behind by a job that was swift, or killed.
                        await self._following.clear_marks(name)
                        await self._growth.look(record)
            except SaccadeError as exc:
                _log.warning("collection left for later", collection=name, why=exc.message)
        for gone in self._counted - seen:
            metrics.PENDING.remove(gone)
            self._cursors.pop(gone, None)
            self._waits.pop(gone, None)
            self._growth.forget(gone)
        self._counted = seen
        return taken

    async def _run(self) -> None:
        while True:
            taken = 0
            try:
                taken = await self.round()
            except SaccadeError as exc:
                _log.warning("reconciler waits", why=exc.message)
            # A round that fails for whatever reason must not be the last one.
            except Exception as exc:
                _log.error("reconciler failed", exc_info=exc)
            await asyncio.sleep(_BUSY_PAUSE_S if taken else self._scan_s)

    async def _collection(self, record: CollectionRecord) -> int:
        """Take what is free in one collection, as far as there is room."""
        name = record.name
        ids = await self._markers.ids(name, start_after=self._cursors.get(name, ""), limit=_LOOK_AT)
        # Behind the last one looked at, or from the start again.
        cursor = ids[-1] if len(ids) == _LOOK_AT else ""
        taken = 0
        able: bool | None = None
        for i, image_id in enumerate(ids):
            if self._room(taken) <= 0:
                cursor = ids[i - 1] if i else self._cursors.get(name, "")
                break
            marker = None if self._indexer.works_on((name, image_id)) else await self._markers.get(name, image_id)
            if marker is None or (marker.leased and marker.lease_owner != self._markers.owner):
                continue
            if marker.op is Op.INDEX:
                able = await self._able_to_index(record) if able is None else able
                if not able:
                    continue
            taken += self._indexer.start((name, image_id)) is not None
        self._cursors[name] = cursor
        return taken

    def _room(self, taken: int) -> int:
        room = self._indexer.room
        return room if self._indexer.segmenting_room else min(room, _TAKE_WHEN_FULL - taken)

    async def _able_to_index(self, record: CollectionRecord) -> bool:
        """Whether what indexing needs is there, so that an outage does not count against the images."""
        why = ""
        try:
            model = await self._embedder.get_model(record.model)
            survey = await self._vectors.survey(Generation.of(record))
            if not survey.complete:
                why = "the index has lost the collection; `saccade rebuild` restores it"
            elif model.fingerprint != record.fingerprint:
                why = f"the embedder's {model.model!r} is not the model that the collection's vectors come from"
        except SaccadeError as exc:
            why = exc.message
        if why and self._waits.get(record.name) != why:
            _log.warning("indexing waits", collection=record.name, why=why)
        self._waits[record.name] = why
        return not why
