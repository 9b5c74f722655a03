"""Indexes that keep up with their collections: built anew, and measured anew, as rows become more.

Looked after in the reconciler's rounds. Each collection is counted now and then only, and one index is measured at a
time, so that a round stays short.
"""

import asyncio
import time
from typing import Final

import structlog

from services.common.errors import FailedPrecondition, SaccadeError
from services.common.records import CollectionRecord, IndexType
from services.common.vectors import Consistency, Generation, IndexMissing, VectorStore
from services.ingest.jobs.measuring import Measuring
from services.ingest.jobs.service import Jobs
from services.ingest.jobs.sizes import lists_for
from services.ingest.settings import IngestSettings

__all__ = ["Growth"]

_log = structlog.get_logger(__name__)

_STARTED_WITH: Final = 128


class Growth:
    """Starts what a collection that has grown needs."""

    def __init__(self, jobs: Jobs, vectors: VectorStore, measuring: Measuring, settings: IngestSettings) -> None:
        """Start jobs there, by these settings."""
        self._jobs = jobs
        self._vectors = vectors
        self._measuring = measuring
        self._settings = settings
        self._looked_at: dict[str, float] = {}
        self._measured: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Let a measurement that is under way go."""
        if self._measured is not None:
            self._measured.cancel()
            await asyncio.wait([self._measured])

    async def look(self, record: CollectionRecord) -> None:
        """See whether the collection has grown, unless that was done lately; start what it needs."""
        now = time.monotonic()
        if now - self._looked_at.get(record.name, -self._settings.growth_check_s) < self._settings.growth_check_s:
            return
        self._looked_at[record.name] = now
        if record.job or record.building is not None:
            return
        live = Generation.of(record)
        try:
            images = await self._vectors.count_images(live, consistency=Consistency.EVENTUAL)
            segments = await self._vectors.count_segments(live, consistency=Consistency.EVENTUAL)
        except IndexMissing:
            # A repair restores it.
            return
        if self._has_outgrown(record, images, segments):
            await self._build_anew(record)
        else:
            await self._measure(record, images, segments)

    def forget(self, name: str) -> None:
        """The collection is gone."""
        self._looked_at.pop(name, None)

    def _has_outgrown(self, record: CollectionRecord, images: int, segments: int) -> bool:
        settings, spec = self._settings, record.index
        if not settings.auto_reindex or spec.type is not IndexType.IVF_FLAT or spec.nlist:
            return False
        wanted = lists_for(spec, images, segments)
        return wanted >= settings.reindex_growth * (record.built_nlist or _STARTED_WITH)

    async def _build_anew(self, record: CollectionRecord) -> None:
        try:
            job = await self._jobs.start_growth(record)
        except FailedPrecondition as exc:
            # Somebody else was faster, in this replica or another one.
            _log.info("index not built anew", collection=record.name, why=exc.message)
        else:
            _log.info("index is built anew", collection=record.name, job=job.id)

    async def _measure(self, record: CollectionRecord, images: int, segments: int) -> None:
        if self._measured is not None and not self._measured.done():
            return
        known = await self._measuring.known(record.name, record.generation)
        grown = self._settings.measure_growth
        before = (known.image_rows, known.segment_rows) if known is not None else (0, 0)
        enough = max(images, segments) >= self._settings.measure_rows
        if enough and (images >= grown * before[0] or segments >= grown * before[1]) and (images, segments) != before:
            self._measured = asyncio.create_task(self._measure_now(record))

    async def _measure_now(self, record: CollectionRecord) -> None:
        try:
            await self._measuring.measure(record)
        except SaccadeError as exc:
            _log.info("index not measured", collection=record.name, why=exc.message)
        except Exception as exc:
            _log.error("index not measured", collection=record.name, exc_info=exc)
