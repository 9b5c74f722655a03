"""The one thread that owns a model."""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["OwnerThread"]

_T = TypeVar("_T")
_Job = tuple[asyncio.Future[Any], Callable[[], Any]]


class OwnerThread:
    """Runs what it is given, one after the other, always in the same thread.

    A daemon: a model that never returns can not keep the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def call(self, work: Callable[[], _T]) -> _T:
        """Run `work` and return what it returns or raise what it raises. Work once begun is not interrupted."""
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._jobs.put((future, work))
        return await future

    def close(self) -> None:
        """Let the thread end after the work that was given so far; returns at once."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work = job
            result: Any = None
            error: Exception | None = None
            try:
                result = work()
            # Whatever happens in the model, its waiter must hear of it: a SystemExit would end this thread in silence,
            # and a future takes no StopIteration.
            except BaseException as exc:
                error = exc if isinstance(exc, Exception) and not isinstance(exc, StopIteration) else _wrapped(exc)
            # Neither result nor error may stay referenced while the thread waits for the next job.
            self._settle(future, result, error)
            del job, future, work, result, error

    @staticmethod
    def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        def settle() -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        try:
            future.get_loop().call_soon_threadsafe(settle)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            return


def _wrapped(error: BaseException) -> RuntimeError:
    wrapped = RuntimeError(f"the model raised {error!r}")
    wrapped.__cause__ = error
    return wrapped
