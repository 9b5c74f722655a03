"""An ingest service in this process that dies at a write of one's choice: nothing that it does later has an effect.

All of its lives share one connection to each engine, so that a life costs milliseconds.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from services.common.embedder_client import EmbedderClient
from services.common.errors import SaccadeError
from services.common.fetch import ImageFetcher
from services.common.objects import LocalObjects, ObjectInfo
from services.common.objects.store import FolderNames
from services.common.records import ImageState
from services.common.vectors import store as vector_store
from services.common.vectors.engine import Engine
from services.ingest import __main__ as ingest_main
from services.ingest import markers
from services.ingest.__main__ import Service
from services.ingest.check import NewImage
from services.ingest.intake import Intake
from services.ingest.jobs import record as job_record
from services.ingest.jobs.record import JobRecord, JobState
from services.ingest.jobs.run import Run
from services.ingest.settings import IngestSettings
from services.ingest.vocabulary import Vocabularies
from tests.engines import MilvusServer

__all__ = ["Lives", "carry_out", "repair", "stored"]

_T = TypeVar("_T")
_AGE_MS = 60_000
PATIENCE_S = 60.0


class Killed(BaseException):
    """The process is dead; like a signal, no `except Exception` catches it."""


class Life:
    """Lasts for a number of writes; without end where that is negative."""

    def __init__(self, writes: int) -> None:
        self._left = writes
        self.dead = False

    def read(self) -> None:
        """The dead read nothing either."""
        if self.dead:
            raise Killed

    def write(self) -> None:
        """The write that is one too many has no effect, and no other one after it."""
        self.dead = self.dead or self._left == 0
        self.read()
        self._left -= 1


class _MortalEngine:
    """Milvus, as long as the life lasts. What is not known to read counts as a write."""

    def __init__(self, engine: Engine, life: Life) -> None:
        self._engine = engine
        self._life = life

    async def run(self, call: Callable[[Any, float], _T], *, reads: str = "", again: bool = False) -> _T:
        if reads:
            self._life.read()
        else:
            self._life.write()
        return await self._engine.run(call, reads=reads, again=again)

    async def close(self) -> None:
        """It is shared."""


class _MortalObjects:
    """The object store, as long as the life lasts; folders are removed object by object."""

    def __init__(self, objects: LocalObjects, life: Life) -> None:
        self._objects = objects
        self._life = life

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    async def put(self, key: str, data: bytes, *, content_type: str = "") -> None:
        self._life.write()
        await self._objects.put(key, data, content_type=content_type)

    async def delete(self, key: str) -> None:
        self._life.write()
        await self._objects.delete(key)

    async def delete_prefix(self, prefix: str) -> int:
        found = await self._objects.list(prefix)
        for info in found:
            await self.delete(info.key)
        return len(found)

    async def get(self, key: str) -> bytes:
        self._life.read()
        return await self._objects.get(key)

    async def list(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> list[ObjectInfo]:
        self._life.read()
        return await self._objects.list(prefix, start_after=start_after, limit=limit)

    async def list_folders(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> FolderNames:
        self._life.read()
        return await self._objects.list_folders(prefix, start_after=start_after, limit=limit)

    async def close(self) -> None:
        """It is shared."""


@dataclass
class Lives:
    """Makes lives of one installation, and lets time pass between them, so that leases of the dead have run out."""

    settings: IngestSettings
    objects: LocalObjects
    engine: Engine
    embedder: EmbedderClient
    intake: Intake
    fetcher: ImageFetcher
    patch: pytest.MonkeyPatch
    _age_ms: int = 0
    _life: Life = field(default_factory=lambda: Life(-1))

    @classmethod
    @asynccontextmanager
    async def of(
        cls, milvus: MilvusServer, embedder_port: int, folder: Path, patch: pytest.MonkeyPatch
    ) -> "AsyncIterator[Lives]":
        """On these engines."""
        settings = IngestSettings(
            objects_url=f"file://{folder}",
            milvus_uri=milvus.uri,
            embedder_address=f"dns:///127.0.0.1:{embedder_port}",
            collection_ttl_s=0.01,
            lease_s=_AGE_MS / 2_000,
            repair_grace_s=0,
            retire_s=0,
            index_drain_s=0,
            auto_reindex=False,
        )
        lives = cls(
            settings,
            LocalObjects(settings, root=str(folder)),
            Engine(settings),
            EmbedderClient(settings.embedder_address, timeout_s=30),
            Intake(settings.image_limits, thumbnail_px=32, workers=2),
            ImageFetcher(settings.fetch_limits),
            patch,
        )
        vocabularies = Vocabularies(lives.objects, default=settings.vocabulary)
        await vocabularies.get("")
        await vocabularies.publish()
        try:
            yield lives
        finally:
            for part in (lives.embedder, lives.engine, lives.objects, lives.intake, lives.fetcher):
                await part.close()

    @asynccontextmanager
    async def live(self, writes: int = -1) -> AsyncIterator[Service]:
        """A service that dies after so many writes; what it had under way is gone at the end."""
        self._life = life = Life(writes)
        self._age_ms += _AGE_MS
        age_ms = self._age_ms
        for module in (markers, job_record):
            self.patch.setattr(module, "now_ms", lambda: time.time_ns() // 1_000_000 + age_ms)
        self.patch.setattr(vector_store, "Engine", lambda _: _MortalEngine(self.engine, life))
        self.patch.setattr(ingest_main, "open_object_store", lambda _: _MortalObjects(self.objects, life))
        for name in ("embedder", "intake", "fetcher"):
            shared = getattr(self, name)
            self.patch.setattr(ingest_main, type(shared).__name__, lambda *_, shared=shared, **__: shared)
        before = asyncio.all_tasks()
        service = Service(self.settings)
        try:
            yield service
        finally:
            life.dead = True
            left = asyncio.all_tasks() - before
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def tell(self, writes: int, story: Callable[[Service], Awaitable[object]]) -> bool:
        """A story in a life of so many writes; whether it came to its end."""
        async with self.live(writes) as service:
            try:
                await story(service)
            except Killed:
                return False
            except SaccadeError:
                # What was killed was not the story itself, but work that it waited for.
                if not self._life.dead:
                    raise
                return False
            return True

    async def recover(self) -> None:
        """A life without end: whatever others left behind is finished."""
        async with self.live() as service, asyncio.timeout(PATIENCE_S):
            service.jobs.runner.start()
            while await self._has_work(service):
                await service.reconciler.round()
                await asyncio.sleep(0.01)

    async def findings(self, collection: str, *, mend: bool = False) -> dict[str, int]:
        """What a repair finds, by kind."""
        async with self.live() as service:
            return {kind: found for kind, (found, _) in (await repair(service, collection, mend=mend)).items()}

    async def _has_work(self, service: Service) -> bool:
        keys = [info.key for info in await self.objects.list("", limit=10_000)]
        if any("/pending/" in key or "/dirty/" in key or key.startswith("active_jobs/") for key in keys):
            return True
        records = [await service.collections.peek(name) async for name in service.collections.all_names()]
        return any(record is None or record.deleting or record.building is not None for record in records)


async def repair(service: Service, collection: str, *, mend: bool) -> dict[str, tuple[int, int]]:
    """A repair from its start to its end, by nobody else."""
    job = await service.jobs.jobs.repair(collection, dry_run=not mend)
    return (await carry_out(service, job)).findings


async def carry_out(service: Service, job: JobRecord) -> JobRecord:
    """A job that was added, without the runner."""
    body = service.jobs.bodies[job.kind]
    run = Run(job, service.jobs.store)
    detail = await body.run(run)
    run.update(state=JobState.SUCCEEDED, detail=detail)
    await run.save()
    await body.ended(run.job)
    await service.jobs.store.close(job.id)
    return run.job


async def stored(service: Service, collection: str, image_id: str, data: bytes, *, replace: bool = False) -> None:
    """Store an image, and wait until it is taken apart."""
    new = NewImage(id=image_id, data=data, tags=("own",))
    await service.library.create(collection, new, wait_for=ImageState.SEGMENTED, replace=replace, interactive=True)
