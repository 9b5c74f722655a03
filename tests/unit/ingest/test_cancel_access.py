from typing import Any, cast

import pytest

from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.access.guard import acting
from services.common.access.principal import Principal, Scope
from services.common.errors import PermissionDenied
from services.ingest.jobs.record import JobRecord
from services.ingest.servicer import IngestServicer


class Jobs:
    """One running job on the collection `birds`."""

    def __init__(self) -> None:
        self.job = JobRecord(id="j", kind="retag", collection="birds", params={}, detail="", created_at_ms=1)
        self.cancelled: list[str] = []

    async def get(self, _id: str) -> JobRecord:
        return self.job

    async def cancel(self, job_id: str) -> JobRecord:
        self.cancelled.append(job_id)
        return self.job


async def test_a_job_is_stopped_by_those_who_may_administer_its_collection() -> None:
    jobs, nothing = Jobs(), cast(Any, None)
    # The call needs nothing else of what a service is made of.
    servicer = object.__new__(IngestServicer)
    servicer._jobs = cast(Any, jobs)
    request = pb.CancelJobRequest(id="j")
    with (
        acting(Principal(name="a", kind="key", scope=Scope.ADMIN, collections=("cats",))),
        pytest.raises(PermissionDenied),
    ):
        await servicer.CancelJob(request, nothing)
    assert jobs.cancelled == []
    with acting(Principal(name="a", kind="key", scope=Scope.ADMIN, collections=("birds",))):
        await servicer.CancelJob(request, nothing)
    await servicer.CancelJob(request, nothing)
    assert jobs.cancelled == ["j", "j"]
