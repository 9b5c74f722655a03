"""The hold that one job has on its collection: there is one job for each collection at a time."""

from collections.abc import Callable

from services.common.errors import FailedPrecondition
from services.common.records import CollectionRecord
from services.ingest.collections import Collections
from services.ingest.jobs.record import JobRecord
from services.ingest.jobs.run import JobFailed, Run, Stopped
from services.ingest.jobs.store import JobStore

__all__ = ["Owning"]


class Owning:
    """Lets jobs hold collections. The record of the collection names the job; one that has ended holds nothing."""

    def __init__(self, collections: Collections, store: JobStore) -> None:
        """Work on these."""
        self._collections = collections
        self._store = store

    async def refuse_if_held(self, record: CollectionRecord, *, by_other_than: str = "") -> None:
        """FailedPrecondition if another job works on the collection."""
        if not record.job or record.job == by_other_than:
            return
        job = await self._store.find(record.job)
        if job is not None and job.running:
            raise FailedPrecondition(
                f"the job {job.id} ({job.kind}) works on the collection {record.name!r}; wait until it"
                " ends, or cancel it",
                field="collection",
                reason="JOB_RUNNING",
            )

    async def claim(self, run: Run) -> CollectionRecord:
        """The collection, held by the job from now on; Stopped if it is gone, JobFailed if another job holds it."""
        record = await self._present(run)
        if record.job == run.job.id:
            return record
        try:
            await self.refuse_if_held(record, by_other_than=run.job.id)
        except FailedPrecondition as exc:
            raise JobFailed(exc.message) from exc
        claimed = await run.ask(
            self._collections.change, run.job.collection, lambda now: now.model_copy(update={"job": run.job.id})
        )
        return claimed or await self._present(run)

    async def look(self, run: Run) -> CollectionRecord:
        """The collection as it stands; Stopped if it is gone, JobFailed if another job holds it by now."""
        run.check()
        record = await self._present(run)
        if record.job != run.job.id:
            raise JobFailed(f"the job {record.job or 'that came later'} has taken the collection over")
        return record

    async def change(self, run: Run, changed: Callable[[CollectionRecord], CollectionRecord]) -> CollectionRecord:
        """Write what `changed` makes of the collection's record, which the job holds; as written."""

        def held(now: CollectionRecord) -> CollectionRecord:
            if now.job != run.job.id:
                raise JobFailed(f"the job {now.job or 'that came later'} has taken the collection over")
            return changed(now)

        record = await run.ask(self._collections.change, run.job.collection, held)
        return record or await self._present(run)

    async def release(self, job: JobRecord) -> None:
        """The job has ended: the collection is free."""
        await self._collections.change(
            job.collection, lambda now: now.model_copy(update={"job": ""}) if now.job == job.id else now
        )

    async def _present(self, run: Run) -> CollectionRecord:
        record = await run.ask(self._collections.peek, run.job.collection)
        if record is None or record.deleting:
            raise Stopped("the collection was deleted")
        return record
