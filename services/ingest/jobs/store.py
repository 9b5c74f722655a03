"""Jobs in the object store."""

import asyncio
import json
import uuid
from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError

from services.common.errors import Internal, NotFound
from services.common.objects import ObjectMissing, ObjectStore
from services.ingest.jobs.record import (
    ACTIVE,
    JOBS,
    JobRecord,
    Lease,
    attached_key,
    cancel_key,
    check_job_id,
    job_key,
    lease_key,
)
from services.ingest.markers import now_ms

__all__ = ["JobStore"]

_JSON: Final = "application/json"
_READS_AT_ONCE: Final = 16
# Jobs in the store beyond this: the oldest of those that have ended go.
_KEPT: Final = 1_000
_REMOVED_AT_ONCE: Final = 100
# Jobs at work in one installation that a look finds.
_MAX_ACTIVE: Final = 1_000


class JobStore:
    """Reads and writes jobs in this replica's name. A job's record is written by whoever holds its lease alone."""

    def __init__(self, objects: ObjectStore, *, lease_s: float) -> None:
        """Leases given and renewed here last `lease_s`."""
        self._objects = objects
        self._lease_ms = int(lease_s * 1000)
        self.owner = uuid.uuid4().hex

    async def get(self, job_id: str, field: str = "id") -> JobRecord:
        """The job; NotFound if there is none."""
        try:
            data = await self._objects.get(job_key(check_job_id(job_id, field)))
            return JobRecord.model_validate_json(data)
        except ObjectMissing as exc:
            raise NotFound(
                f"there is no job {job_id!r}; see which there are with ListJobs", field=field, reason="JOB_NOT_FOUND"
            ) from exc
        except ValidationError as exc:
            raise Internal(f"the record of the job {job_id!r} can not be read") from exc

    async def find(self, job_id: str) -> JobRecord | None:
        """The job, if there is one that can be read."""
        try:
            return await self.get(job_id)
        except (NotFound, Internal):
            return None

    async def add(self, job: JobRecord, *, attached: Sequence[str] = ()) -> None:
        """Keep a new job, free to take in a moment; the oldest of those that have ended may go for it.

        `attached` is more than its record should hold, and goes when it has ended.
        """
        # First: a job that can be seen has somebody who will take it up.
        await self.write_lease(job.id, Lease(until_ms=now_ms() + self._lease_ms))
        if attached:
            await self._objects.put(attached_key(job.id), json.dumps(list(attached)).encode(), content_type=_JSON)
        await self.write(job)
        await self._prune()

    async def attached(self, job_id: str) -> list[str]:
        """What came with a job that has not ended."""
        return [str(item) for item in json.loads(await self._objects.get(attached_key(job_id)))]

    async def write(self, job: JobRecord) -> None:
        """Keep the job as it stands."""
        await self._objects.put(job_key(job.id), job.to_bytes(), content_type=_JSON)

    async def page(self, *, collection: str, start_after: str, limit: int) -> tuple[list[JobRecord], str]:
        """Up to `limit` jobs, newest first, from behind `start_after`, and where to go on; empty at the end."""
        found: list[JobRecord] = []
        while True:
            ids = await self._ids(start_after, limit)
            jobs = await self._read(ids)
            for job_id, job in zip(ids, jobs, strict=True):
                if job is not None and collection in {"", job.collection}:
                    if len(found) == limit:
                        return found, start_after
                    found.append(job)
                start_after = job_id
            if len(ids) < limit:
                return found, ""

    async def active(self) -> list[str]:
        """Ids of jobs that have not ended, the oldest first."""
        return (await self._objects.list_folders(ACTIVE, limit=_MAX_ACTIVE))[::-1]

    async def lease(self, job_id: str) -> Lease:
        """The job's lease; where it can not be read, one that is free to take."""
        try:
            return Lease.model_validate_json(await self._objects.get(lease_key(job_id)))
        except (ObjectMissing, ValidationError):
            return Lease()

    async def hold(self, job_id: str) -> None:
        """Take or renew the job's lease."""
        await self.write_lease(job_id, Lease(owner=self.owner, until_ms=now_ms() + self._lease_ms))

    async def write_lease(self, job_id: str, lease: Lease) -> None:
        """Write the job's lease as given."""
        await self._objects.put(lease_key(job_id), lease.to_bytes(), content_type=_JSON)

    async def ask_to_stop(self, job_id: str) -> None:
        """Let whoever works on the job know that it should stop."""
        await self._objects.put(cancel_key(job_id), b"")

    async def asked_to_stop(self, job_id: str) -> bool:
        """Whether somebody wants the job to stop."""
        try:
            await self._objects.get(cancel_key(job_id))
        except ObjectMissing:
            return False
        return True

    async def close(self, job_id: str) -> None:
        """Nothing is left to do for a job."""
        await self._objects.delete_prefix(f"{ACTIVE}{job_id}/")

    async def _ids(self, start_after: str, limit: int) -> list[str]:
        after = job_key(start_after) if start_after else ""
        found = await self._objects.list(JOBS, start_after=after, limit=limit)
        return [info.key.removeprefix(JOBS).removesuffix(".json") for info in found]

    async def _read(self, ids: list[str]) -> list[JobRecord | None]:
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(job_id: str) -> JobRecord | None:
            async with slots:
                return await self.find(job_id)

        return await asyncio.gather(*(read(job_id) for job_id in ids))

    async def _prune(self) -> None:
        kept = await self._ids("", _KEPT)
        if len(kept) < _KEPT:
            return
        old = await self._ids(kept[-1], _REMOVED_AT_ONCE)
        for job_id, job in zip(old, await self._read(old), strict=True):
            if job is None or not job.running:
                await self._objects.delete(job_key(job_id))
