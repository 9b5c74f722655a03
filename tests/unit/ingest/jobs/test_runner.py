import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from services.common.errors import FailedPrecondition, InvalidImage, Unavailable
from services.common.objects import ObjectStore
from services.ingest.jobs.record import JobRecord, JobState, Lease, new_job_id
from services.ingest.jobs.run import JobFailed, Run
from services.ingest.jobs.runner import JobRunner
from services.ingest.jobs.store import JobStore
from services.ingest.markers import now_ms

LEASE_S = 0.6
PATIENCE_S = 10


class Counting:
    """A kind of job that counts to its total, one for each time that it may go on."""

    def __init__(self) -> None:
        self.may_go_on = asyncio.Semaphore(0)
        self.steps: list[int] = []
        self.aborted: list[str] = []
        self.over: list[str] = []
        self.error: Exception | None = None
        self.at_work = self.most_at_work = 0

    async def run(self, run: Run) -> str:
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            return await self._count(run)
        finally:
            self.at_work -= 1

    async def _count(self, run: Run) -> str:
        while run.job.done < run.job.total:
            run.check()
            if self.error is not None:
                raise self.error
            if self.may_go_on.locked():
                await run.pause(0.02)
                continue
            await self.may_go_on.acquire()
            self.steps.append(run.job.done)
            run.update(done=run.job.done + 1)
            await run.save()
        return "counted"

    async def abort(self, run: Run) -> None:
        run.check()
        self.aborted.append(run.job.id)

    async def ended(self, job: JobRecord) -> None:
        self.over.append(job.id)

    def has_done(self, count: int) -> Callable[[], Awaitable[bool]]:
        async def done() -> bool:
            return len(self.steps) == count

        return done

    def are_at_work(self, count: int) -> Callable[[], Awaitable[bool]]:
        async def working() -> bool:
            return self.at_work == count

        return working

    def let(self, count: int) -> None:
        for _ in range(count):
            self.may_go_on.release()


class Replica:
    """A runner with a store and a body of its own."""

    def __init__(self, objects: ObjectStore) -> None:
        self.store = JobStore(objects, lease_s=LEASE_S)
        self.body = Counting()
        self.runner = JobRunner(self.store, {"count": self.body}, at_once=2, lease_s=LEASE_S, scan_s=0.05)

    async def add(self, total: int, kind: str = "count") -> JobRecord:
        job = JobRecord(id=new_job_id(), kind=kind, collection="c", total=total, created_at_ms=now_ms())
        await self.store.add(job)
        self.runner.wake(job.id)
        return job


@pytest.fixture
async def replica(objects: ObjectStore) -> AsyncIterator[Replica]:
    one = Replica(objects)
    one.runner.start()
    yield one
    await one.runner.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)


async def ended(store: JobStore, job: JobRecord) -> JobRecord:
    """The job when it has ended, and nobody holds it any more."""

    async def over() -> bool:
        return not (await store.get(job.id)).running and job.id not in await store.active()

    await until(over)
    return await store.get(job.id)


async def test_a_job_is_done_and_let_go(replica: Replica) -> None:
    job = await replica.add(3)
    replica.body.let(3)
    found = await ended(replica.store, job)
    assert (found.state, found.done, found.detail) == (JobState.SUCCEEDED, 3, "counted")
    assert found.ended_at_ms
    assert replica.body.over == [job.id]


async def test_what_a_dead_process_was_at_goes_on_where_it_was(objects: ObjectStore, replica: Replica) -> None:
    job = JobRecord(id=new_job_id(), kind="count", collection="c", total=4, done=2, created_at_ms=now_ms())
    await replica.store.add(job)
    await replica.store.write_lease(job.id, Lease(owner="dead", until_ms=now_ms() + 300))
    replica.body.let(9)
    assert replica.body.steps == []
    assert (await ended(replica.store, job)).state is JobState.SUCCEEDED
    assert replica.body.steps == [2, 3]


async def test_a_process_that_is_asked_to_end_gives_its_jobs_back(objects: ObjectStore) -> None:
    first, second = Replica(objects), Replica(objects)
    first.runner.start()
    job = await first.add(4)
    first.body.let(2)
    await until(first.body.has_done(2))
    await first.runner.close()
    assert (await first.store.lease(job.id)) == Lease()
    assert (await first.store.get(job.id)).done == 2
    second.body.let(2)
    second.runner.start()
    assert (await ended(second.store, job)).state is JobState.SUCCEEDED
    assert (first.body.steps, second.body.steps) == ([0, 1], [2, 3])
    assert first.body.over == []
    await second.runner.close()


async def test_any_replica_may_stop_a_job(objects: ObjectStore, replica: Replica) -> None:
    job = await replica.add(1)
    await JobStore(objects, lease_s=LEASE_S).ask_to_stop(job.id)
    found = await ended(replica.store, job)
    assert (found.state, found.done) == (JobState.CANCELLED, 0)
    # Taking back may ask others, which nobody stops any more.
    assert replica.body.aborted == [job.id]
    assert replica.body.over == [job.id]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (JobFailed("too little agreement"), "too little agreement"),
        (FailedPrecondition("no such index"), "no such index"),
        (ZeroDivisionError("secret"), "an error on our side"),
    ],
)
async def test_a_job_fails_with_a_reason(replica: Replica, error: Exception, told: str) -> None:
    replica.body.error = error
    found = await ended(replica.store, await replica.add(1))
    assert found.state is JobState.FAILED
    assert told in found.failure
    assert "secret" not in found.failure
    assert replica.body.aborted == [found.id]


async def test_an_unknown_kind_fails(replica: Replica) -> None:
    found = await ended(replica.store, await replica.add(1, kind="knit"))
    assert found.state is JobState.FAILED
    assert "'knit'" in found.failure


async def test_a_lease_without_a_job_goes(replica: Replica) -> None:
    await replica.store.write_lease(new_job_id(), Lease())

    async def gone() -> bool:
        return not await replica.store.active()

    await until(gone)


async def test_so_many_at_once(replica: Replica) -> None:
    made = [await replica.add(2) for _ in range(3)]
    await until(replica.body.are_at_work(2))
    replica.body.let(6)
    for job in made:
        assert (await ended(replica.store, job)).state is JobState.SUCCEEDED
    assert replica.body.most_at_work == 2


async def test_others_are_waited_for(objects: ObjectStore) -> None:
    store = JobStore(objects, lease_s=LEASE_S)
    run = Run(JobRecord(id=new_job_id(), kind="count", collection="c", detail="at it", created_at_ms=1), store)
    calls, details = 0, []

    async def away(result: int) -> int:
        nonlocal calls
        calls += 1
        details.append(run.job.detail)
        if calls < 3:
            raise Unavailable("it is away")
        return result

    assert await run.ask(away, 7) == 7
    assert details == ["at it", "at it; waiting: it is away", "at it; waiting: it is away"]
    assert run.job.detail == "at it"


async def test_the_latest_hundred_errors_are_kept(objects: ObjectStore) -> None:
    run = Run(JobRecord(id=new_job_id(), kind="count", collection="c", created_at_ms=1), JobStore(objects, lease_s=1))
    for i in range(150):
        run.failed(f"i{i}", InvalidImage("it ends early"))
    assert (run.job.failed, len(run.job.errors)) == (150, 100)
    assert (run.job.errors[-1].field, run.job.errors[-1].code) == ("i149", 3)
