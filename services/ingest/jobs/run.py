"""One job while it is worked on: what it has done, whether it should go on, and its patience with others."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, ParamSpec, Protocol, TypeVar

import grpc

from services.common.errors import DeadlineExceeded, Overloaded, Unavailable
from services.common.status import to_item_error
from services.ingest.jobs.record import JobError, JobRecord
from services.ingest.jobs.store import JobStore

__all__ = ["GivenUp", "JobBody", "JobFailed", "Run", "Stopped"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_MAX_ERRORS: Final = 100
_MAX_DETAIL_CHARS: Final = 1_000
_DIFFERS: Final = grpc.StatusCode.FAILED_PRECONDITION.value[0]
_WAITING: Final = "; waiting: "
_FIRST_PAUSE_S: Final = 0.2
_MAX_PAUSE_S: Final = 5.0
_PASSING: Final = (Unavailable, Overloaded, DeadlineExceeded)


class Stopped(Exception):
    """Somebody asked the job to stop, or what it works on is gone; the message says which."""


class GivenUp(Exception):
    """Another replica has the job now, or this process ends: nothing more may be written here."""


class JobFailed(Exception):
    """The job ends badly; the message is a sentence for people."""


class JobBody(Protocol):
    """What a kind of job does."""

    async def run(self, run: "Run") -> str:
        """Do it, from where its record says; what came out of it, in words."""
        ...

    async def abort(self, run: "Run") -> None:
        """Take back what should not stay of a job that was stopped, or failed."""
        ...

    async def ended(self, job: JobRecord) -> None:
        """The job has ended, and its record says so."""
        ...


class Run:
    """A job at work in this process. Its record is changed here and nowhere else, and saved now and then."""

    def __init__(self, job: JobRecord, store: JobStore) -> None:
        """Work on `job` where it stands."""
        self.job = job
        self._store = store
        self._saved = job
        self._saving = asyncio.Lock()
        self._halted = asyncio.Event()
        self._reason: Exception | None = None
        self._unstoppable = False

    def update(self, **fields: Any) -> None:
        """Change the record; it is saved within seconds, at the latest."""
        if "detail" in fields:
            fields["detail"] = fields["detail"][:_MAX_DETAIL_CHARS]
        self.job = self.job.model_copy(update=fields)

    async def save(self) -> None:
        """Save the record as it stands, if it has changed."""
        async with self._saving:
            job = self.job
            if job is not self._saved:
                await self._store.write(job)
                self._saved = job

    def failed(self, item: str, error: Exception) -> None:
        """One item could not be done; it is counted, and the latest hundred are listed."""
        told = to_item_error(error, item)
        one = JobError(code=told.code, reason=told.reason, message=told.message, field=told.field)
        self.update(failed=self.job.failed + 1, errors=(*self.job.errors, one)[-_MAX_ERRORS:])

    def found(self, kind: str, item: str, meaning: str, *, count: int = 1) -> None:
        """Differences of one kind; counted exactly, and the latest hundred are listed."""
        one = JobError(code=_DIFFERS, reason=kind, message=meaning, field=item)
        before, mended = self.job.findings.get(kind, (0, 0))
        findings = {**self.job.findings, kind: (before + count, mended)}
        self.update(findings=findings, errors=(*self.job.errors, one)[-_MAX_ERRORS:])

    def repaired(self, kind: str, *, count: int = 1) -> None:
        """So many of those found are mended, or handed on."""
        found, mended = self.job.findings.get(kind, (0, 0))
        self.update(findings={**self.job.findings, kind: (found, min(found, mended + count))})

    def halt(self, reason: Exception) -> None:
        """Let the next `check` raise Stopped or GivenUp; the latter outdoes the former."""
        if self._unstoppable and isinstance(reason, Stopped):
            return
        if self._reason is None or isinstance(reason, GivenUp):
            self._reason = reason
        self._halted.set()

    def pass_the_point(self) -> None:
        """From here on the job is not stopped any more; it may still be given up."""
        self._unstoppable = True
        if isinstance(self._reason, Stopped):
            self._reason = None
            self._halted.clear()

    def check(self) -> None:
        """Raise if the job should not go on; called between any two steps."""
        if self._reason is not None:
            raise self._reason

    async def pause(self, seconds: float) -> None:
        """Wait, and raise as `check` does as soon as the job should not go on."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._halted.wait()
        self.check()

    async def race(self, call: Coroutine[Any, Any, _T]) -> _T:
        """The result of something long that writes nothing; it is dropped as soon as the job should not go on."""
        task = asyncio.ensure_future(call)
        halted = asyncio.ensure_future(self._halted.wait())
        try:
            await asyncio.wait({task, halted}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.check()
            return await task
        finally:
            task.cancel()
            halted.cancel()

    async def ask(self, call: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """The result of `call` with these arguments.

        A dependency that is away or overloaded is waited for, as long as the job may go on.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            self.check()
            try:
                result = await call(*args, **kwargs)
            except _PASSING as exc:
                self.update(detail=f"{self._plain_detail}{_WAITING}{exc.message}")
                # Jobs that were refused together do not come back together.
                await self.pause(exc.retry_after_s + random.uniform(0, pause_s))  # noqa: S311 - jitter is no secret
                pause_s = min(2 * pause_s, _MAX_PAUSE_S)
            else:
                if pause_s > _FIRST_PAUSE_S:
                    self.update(detail=self._plain_detail)
                return result

    @property
    def _plain_detail(self) -> str:
        return self.job.detail.partition(_WAITING)[0]
