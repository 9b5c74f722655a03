"""Work that a caller's disappearance must not cut in two."""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog
from opentelemetry import context as otel_context

from services.common.errors import SaccadeError

__all__ = ["Uninterrupted", "detached_context"]

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


def detached_context() -> contextvars.Context:
    """A context without the present call's deadline, but in its trace."""
    fresh = contextvars.Context()
    fresh.run(otel_context.attach, otel_context.get_current())
    return fresh


class Uninterrupted:
    """Runs steps to their end even if whoever waits for them is cancelled.

    An object or row that is being written when a task is cancelled is written all the same, a moment later and outside
    of any lock. So what writes runs as a whole here, the lock that it takes included. A step's own waits must each
    have a limit: no deadline of a call reaches it.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, step: Coroutine[Any, Any, _T]) -> _T:
        """Run a step; its result or error. Where the waiter is cancelled, the step goes on alone."""
        task = asyncio.create_task(step, context=detached_context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_tell_failure)
            raise

    async def close(self) -> None:
        """Wait for the steps that still run."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))


def _tell_failure(task: asyncio.Task[Any]) -> None:
    """A failure that nobody waits for any more goes to the log."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    if isinstance(error, SaccadeError):
        _log.info("step failed after its caller had left", why=error.message)
    else:
        _log.error("step failed after its caller had left", exc_info=error)
