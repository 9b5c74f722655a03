"""Takes jobs up: those of this replica at once, those that nobody holds any more after a look."""

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping
from typing import Final

import structlog

from services.common.errors import SaccadeError
from services.ingest import metrics
from services.ingest.jobs.record import JobState, Lease
from services.ingest.jobs.run import GivenUp, JobBody, JobFailed, Run, Stopped
from services.ingest.jobs.store import JobStore
from services.ingest.markers import now_ms
from services.ingest.uninterrupted import detached_context

__all__ = ["JobRunner"]

_log = structlog.get_logger(__name__)

_BEAT_S: Final = 0.5
_SAVE_S: Final = 2.0
# How long a job's present step may go on when the service stops.
_DRAIN_S: Final = 10.0
# Two replicas that take the same job at the same moment see each other after this.
_SETTLE_S: Final = (0.1, 0.3)


class JobRunner:
    """Works on jobs, a few at a time; every replica has one.

    A job's lease keeps others away as long as its process lives. What a killed one was at goes on in another, or in
    the next one, after at most the lease and a look.
    """

    def __init__(
        self, store: JobStore, bodies: Mapping[str, JobBody], *, at_once: int, lease_s: float, scan_s: float
    ) -> None:
        """Make it idle.

        Args:
            store: Where jobs are kept.
            bodies: What each kind of job does.
            at_once: Jobs at work here at a time.
            lease_s: Leases are renewed each third of this.
            scan_s: Pause between two looks.
        """
        self._store = store
        self._bodies = bodies
        self._at_once = at_once
        self._renew_s = lease_s / 3
        self._scan_s = scan_s
        self._runs: dict[str, tuple[Run | None, asyncio.Task[None]]] = {}
        self._wanted: set[str] = set()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, with a look at once."""
        self._task = asyncio.create_task(self._run(), context=detached_context())

    def wake(self, job_id: str) -> None:
        """Take up a job that was just added here, without waiting for the next look."""
        self._wanted.add(job_id)
        self._woken.set()

    def stop(self, job_id: str) -> None:
        """Somebody asked here for a job to stop; where it runs elsewhere, that replica sees it soon."""
        run, _ = self._runs.get(job_id, (None, None))
        if run is not None:
            run.halt(Stopped("it was cancelled"))

    async def close(self) -> None:
        """Take nothing more, and give jobs back after the step that each is at."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        tasks = [task for _, task in self._runs.values()]
        for run, task in self._runs.values():
            if run is not None:
                run.halt(GivenUp("the service stops"))
            else:
                task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_DRAIN_S)
            for task in late:
                task.cancel()
            # What they write meanwhile ends all the same, before the service does.
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except SaccadeError as exc:
                _log.warning("jobs wait", why=exc.message)
            # A look that fails for whatever reason must not be the last one.
            except Exception as exc:
                _log.error("look for jobs failed", exc_info=exc)
            # Not wait_for, which may lose a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._scan_s):
                    await self._woken.wait()
            self._woken.clear()

    async def _look(self) -> None:
        for job_id in await self._store.active():
            if len(self._runs) >= self._at_once:
                return
            if job_id in self._runs:
                continue
            lease = await self._store.lease(job_id)
            # One that was just added has a lease of nobody, which is this replica's if it was added here.
            if job_id not in self._wanted and lease.held_by_other_than(self._store.owner):
                continue
            self._wanted.discard(job_id)
            self._runs[job_id] = (None, asyncio.create_task(self._take(job_id)))
            self._runs[job_id][1].add_done_callback(lambda _, job_id=job_id: self._left(job_id))  # type: ignore[misc]

    def _left(self, job_id: str) -> None:
        del self._runs[job_id]
        metrics.JOBS.set(len(self._runs))
        self._woken.set()

    async def _take(self, job_id: str) -> None:
        try:
            await self._store.hold(job_id)
            await asyncio.sleep(random.uniform(*_SETTLE_S))  # noqa: S311 - jitter is no secret
            if (await self._store.lease(job_id)).owner != self._store.owner:
                return
            job = await self._store.find(job_id)
            if job is None:
                # Its process died before it was kept: nobody was told of it.
                await self._store.close(job_id)
                return
            run = Run(job, self._store)
            self._runs[job_id] = (run, self._runs[job_id][1])
            metrics.JOBS.set(len(self._runs))
            await self._work(run)
        except SaccadeError as exc:
            _log.warning("job left for later", job=job_id, why=exc.message)
        except Exception as exc:
            _log.error("job left for later", job=job_id, exc_info=exc)

    async def _work(self, run: Run) -> None:
        beat = asyncio.create_task(self._beat(run))
        try:
            await self._carry_out(run)
        except GivenUp as exc:
            _log.info("job given back", job=run.job.id, why=str(exc))
            if (await self._store.lease(run.job.id)).owner == self._store.owner:
                await run.save()
                await self._store.write_lease(run.job.id, Lease())
        finally:
            beat.cancel()
            await asyncio.wait([beat])

    async def _carry_out(self, run: Run) -> None:
        body = self._bodies.get(run.job.kind)
        if run.job.running:
            _log.info("job at work", job=run.job.id, kind=run.job.kind, collection=run.job.collection)
            await self._attempt(run, body)
            _log.info("job ended", job=run.job.id, state=run.job.state.value, detail=run.job.detail)
        if body is not None:
            await body.ended(run.job)
        await self._store.close(run.job.id)

    async def _attempt(self, run: Run, body: JobBody | None) -> None:
        """Bring the job to its end, whatever that is."""
        try:
            if body is None:
                raise JobFailed(f"this version does not know jobs of the kind {run.job.kind!r}")
            detail = await body.run(run)
            run.update(state=JobState.SUCCEEDED, detail=detail)
        except Stopped as exc:
            await self._abort(run, body)
            run.update(state=JobState.CANCELLED, detail=f"{exc}")
        except JobFailed as exc:
            await self._fail(run, body, str(exc))
        except SaccadeError as exc:
            await self._fail(run, body, exc.message)
        except GivenUp:
            raise
        except Exception as exc:
            _log.error("job failed", job=run.job.id, exc_info=exc)
            await self._fail(run, body, "an error on our side; the service's log has it under the job's name")
        run.update(ended_at_ms=now_ms())
        await run.save()

    async def _fail(self, run: Run, body: JobBody | None, why: str) -> None:
        await self._abort(run, body)
        run.update(state=JobState.FAILED, failure=why)

    async def _abort(self, run: Run, body: JobBody | None) -> None:
        run.pass_the_point()
        if body is not None:
            await body.abort(run)

    async def _beat(self, run: Run) -> None:
        """Renew the lease, save the record, and look whether the job should stop; as long as it is worked on."""
        renewed = saved = time.monotonic()
        job_id = run.job.id
        while True:
            await asyncio.sleep(min(_BEAT_S, self._renew_s))
            try:
                if await self._store.asked_to_stop(job_id):
                    run.halt(Stopped("it was cancelled"))
                now = time.monotonic()
                if now - renewed >= self._renew_s:
                    if (await self._store.lease(job_id)).owner != self._store.owner:
                        run.halt(GivenUp("another replica has taken it"))
                        return
                    await self._store.hold(job_id)
                    renewed = now
                if now - saved >= _SAVE_S:
                    await run.save()
                    saved = now
            except SaccadeError as exc:
                _log.info("job's lease not renewed", job=job_id, why=exc.message)
