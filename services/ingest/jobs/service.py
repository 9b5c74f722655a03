"""Jobs as callers see them: started, found and stopped."""

import asyncio
import math
from dataclasses import dataclass
from typing import Any, Final

from services.common.deadline import time_left_s
from services.common.embedder_client import EmbedderClient
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.common.objects.store import check_prefix
from services.common.records import CollectionRecord, GenerationRecord, IndexSpec
from services.common.vectors import Generation, VectorStore
from services.ingest.collections import Collections
from services.ingest.jobs.owning import Owning
from services.ingest.jobs.record import JobRecord, new_job_id
from services.ingest.jobs.runner import JobRunner
from services.ingest.jobs.sources import check_bucket, check_folder
from services.ingest.jobs.store import JobStore
from services.ingest.markers import now_ms
from services.ingest.settings import IngestSettings
from services.ingest.vocabulary import Vocabularies

__all__ = ["Jobs", "NewImport", "NewReindex"]

# How long a call waits for a job to stop.
_STOP_S: Final = 10.0
_LOOK_S: Final = 0.1
# Share of a call's time that waiting may take, so that what it ends with can still be told.
_WAIT_SHARE: Final = 0.8


@dataclass(frozen=True, slots=True)
class NewReindex:
    """A reindex to start; see the contract. `index` None: the present one."""

    collection: str
    model: str = ""
    index: IndexSpec | None = None
    min_agreement: float = 0.0
    rollback: bool = False


@dataclass(frozen=True, slots=True)
class NewImport:
    """An import to start; see the contract. One of `bucket`, `folder` and `urls` is set."""

    collection: str
    bucket: str = ""
    prefix: str = ""
    folder: str = ""
    urls: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class Jobs:
    """All jobs."""

    def __init__(
        self,
        *,
        store: JobStore,
        runner: JobRunner,
        owning: Owning,
        collections: Collections,
        vocabularies: Vocabularies,
        embedder: EmbedderClient,
        vectors: VectorStore,
        settings: IngestSettings,
    ) -> None:
        """Work on these; `settings` say what may be imported."""
        self._settings = settings
        self._store = store
        self._runner = runner
        self._owning = owning
        self._collections = collections
        self._vocabularies = vocabularies
        self._embedder = embedder
        self._vectors = vectors

    async def reindex(self, new: NewReindex) -> JobRecord:
        """Start building a collection's next generation, or going back to the one before.

        Raises:
            NotFound: there is no such collection, or the embedder has no such model.
            InvalidArgument: the fields do not go together.
            FailedPrecondition: another job works on the collection, there is nothing to go back to, or the engine has
                no such index.
        """
        # Written so that NaN fails too.
        if not 0 <= new.min_agreement <= 1 or math.isnan(new.min_agreement):
            raise InvalidArgument(f"is in [0, 1], not {new.min_agreement:g}", field="min_agreement")
        record = await self._collections.get(new.collection, anew=True)
        if new.rollback:
            if new.model or new.index is not None:
                raise InvalidArgument(
                    "a rollback goes back to the generation before as it is: leave model and index empty",
                    field="rollback",
                )
            await self._check_way_back(record)
            return await self._start("reindex", record, {"rollback": True})
        target = await self._target(record, new)
        await self._vectors.check_index(Generation.of(record.under(target)))
        params = {"target": target.model_dump(mode="json"), "min_agreement": new.min_agreement}
        return await self._start("reindex", record, params)

    async def retag(self, collection: str, vocabulary: str) -> JobRecord:
        """Start choosing the tags of all images anew.

        Raises:
            NotFound: there is no such collection or vocabulary.
            FailedPrecondition: another job works on the collection, or its model can not compare images with words.
        """
        record = await self._collections.get(collection, anew=True)
        if not record.has_text:
            raise FailedPrecondition(
                f"the collection's model {record.model!r} has no text tower, so it can not choose tags; reindex the "
                "collection with a model that has one",
                field="collection",
                reason="NO_TEXT_TOWER",
            )
        if vocabulary:
            await self._vocabularies.get(vocabulary, "vocabulary")
        return await self._start("retag", record, {"vocabulary": vocabulary or record.vocabulary})

    async def repair(self, collection: str, *, dry_run: bool) -> JobRecord:
        """Start comparing what is stored with the index, and mending what differs.

        Raises:
            NotFound: there is no such collection.
            FailedPrecondition: another job works on the collection.
        """
        record = await self._collections.get(collection, anew=True)
        return await self._start("repair", record, {"dry_run": dry_run})

    async def import_images(self, new: NewImport) -> JobRecord:
        """Start storing what lies in a bucket, in a folder or at addresses. Several may run beside each other.

        Raises:
            NotFound: there is no such collection or folder.
            FailedPrecondition: nothing may be imported from there.
        """
        await self._collections.get(new.collection, anew=True)
        params: dict[str, Any] = {"tags": list(new.tags)}
        if new.folder:
            await asyncio.to_thread(check_folder, self._settings, new.folder)
            params |= {"folder": new.folder}
        elif not new.urls:
            check_bucket(self._settings, new.bucket)
            check_prefix(new.prefix)
            params |= {"bucket": new.bucket, "prefix": new.prefix}
        job = self._new("import", new.collection, params).model_copy(update={"total": len(new.urls)})
        await self._store.add(job, attached=new.urls)
        self._runner.wake(job.id)
        return job

    async def get(self, job_id: str) -> JobRecord:
        """The job; NotFound if there is none."""
        return await self._store.get(job_id)

    async def page(self, *, collection: str, start_after: str, limit: int) -> tuple[list[JobRecord], str]:
        """Up to `limit` jobs, newest first, from behind `start_after`, and where to go on; empty at the end."""
        return await self._store.page(collection=collection, start_after=start_after, limit=limit)

    async def cancel(self, job_id: str) -> JobRecord:
        """Ask a job to stop, and wait for it a while; as it then is. One that has ended stays as it is."""
        job = await self._store.get(job_id)
        if not job.running:
            return job
        await self._store.ask_to_stop(job_id)
        self._runner.stop(job_id)
        loop = asyncio.get_running_loop()
        end = loop.time() + time_left_s(_STOP_S) * _WAIT_SHARE
        while job.running and loop.time() < end:
            await asyncio.sleep(_LOOK_S)
            job = await self._store.get(job_id)
        if not job.running:
            # It may have ended by itself just before it was asked.
            await self._store.close(job_id)
        return job

    async def at_work_on(self, record: CollectionRecord) -> str:
        """Id of the job that works on the collection; empty: none does."""
        job = await self._store.find(record.job) if record.job else None
        return job.id if job is not None and job.running else ""

    async def start_growth(self, record: CollectionRecord) -> JobRecord:
        """Start building a collection's index anew for as many rows as there are now."""
        target = record.live.model_dump(mode="json")
        return await self._start("reindex", record, {"target": target, "grown": True})

    async def _target(self, record: CollectionRecord, new: NewReindex) -> GenerationRecord:
        """What is to be built; its number and lists are settled later."""
        live = record.live
        index = new.index or live.index
        if not new.model:
            return live.model_copy(update={"index": index})
        try:
            model = await self._embedder.get_model(new.model)
        except (NotFound, InvalidArgument) as exc:
            raise type(exc)(exc.message, field="model", reason=exc.reason) from exc
        return live.model_copy(
            update={
                "index": index,
                "model": model.model,
                "fingerprint": model.fingerprint,
                "dimension": model.dimension,
                "has_text": model.has_text,
            }
        )

    async def _check_way_back(self, record: CollectionRecord) -> None:
        previous = record.previous
        if previous is None:
            raise FailedPrecondition(
                f"the collection {record.name!r} has no generation before the present one",
                field="rollback",
                reason="NO_PREVIOUS_GENERATION",
            )
        if previous.fingerprint == record.fingerprint:
            return
        try:
            fingerprint = (await self._embedder.get_model(previous.model)).fingerprint
        except (NotFound, InvalidArgument):
            fingerprint = ""
        if fingerprint != previous.fingerprint:
            raise FailedPrecondition(
                f"generation {previous.number} is of the model {previous.model!r} with the fingerprint "
                f"{previous.fingerprint}, which the embedder does not have; add it to the embedder's SACCADE_MODEL",
                field="rollback",
                reason="MODEL_MISMATCH",
            )

    async def _start(self, kind: str, record: CollectionRecord, params: dict[str, Any]) -> JobRecord:
        await self._owning.refuse_if_held(record)
        job = self._new(kind, record.name, params)
        held = await self._collections.change(record.name, lambda now: self._held_by(now, record, job))
        if held is None:
            raise NotFound(f"there is no collection {record.name!r}", field="collection", reason="COLLECTION_NOT_FOUND")
        await self._store.add(job)
        self._runner.wake(job.id)
        return job

    def _new(self, kind: str, collection: str, params: dict[str, Any]) -> JobRecord:
        return JobRecord(
            id=new_job_id(),
            kind=kind,
            collection=collection,
            params=params,
            detail="waiting for its turn",
            created_at_ms=now_ms(),
        )

    def _held_by(self, now: CollectionRecord, seen: CollectionRecord, job: JobRecord) -> CollectionRecord:
        if now.job not in {"", seen.job} or now.generation != seen.generation:
            raise FailedPrecondition(
                f"the job {now.job or 'that just ended'} changed the collection {now.name!r} at this moment; look at "
                "it and try again",
                field="collection",
                reason="JOB_RUNNING",
            )
        return now.model_copy(update={"job": job.id})
