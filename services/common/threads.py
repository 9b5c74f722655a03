"""Blocking clients of storage engines, used from asyncio: a bounded pool of threads, and a deadline for every call."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from services.common.deadline import time_left_s
from services.common.errors import DeadlineExceeded, Overloaded

__all__ = ["Workers"]

# Calls that may wait for a thread, for each thread; more are refused with Overloaded.
MAX_WAITING_PER_THREAD: Final = 32

_T = TypeVar("_T")


class Workers:
    """Threads of one client. Safe for concurrent use within one event loop."""

    def __init__(self, name: str, size: int, timeout_s: float) -> None:
        """Make a pool of `size` threads, whose calls take at most `timeout_s` each, waiting for a thread included."""
        self._name = name
        self._timeout_s = timeout_s
        self._limit = size * (1 + MAX_WAITING_PER_THREAD)
        self._under_way = 0
        self._executor = ThreadPoolExecutor(size, thread_name_prefix=name)

    async def run(self, call: Callable[[float], _T], *, timeout_s: float = 0.0) -> _T:
        """Run `call(seconds_left)` in a thread; it must not block for longer than it is told.

        A call that is given up before it gets a thread never starts; one that has begun ends in its own time.

        Args:
            call: What to do; its exceptions come through.
            timeout_s: Another limit than the pool's own; 0: the pool's.

        Raises:
            DeadlineExceeded: the caller's time, or the limit, ran out.
            Overloaded: too many calls wait already.
        """
        allowed_s = time_left_s(timeout_s or self._timeout_s)
        if self._under_way >= self._limit:
            raise Overloaded(f"too many {self._name} calls wait already; come back in a second", retry_after_s=1.0)
        end = time.monotonic() + allowed_s
        self._under_way += 1
        try:
            pending = asyncio.get_running_loop().run_in_executor(self._executor, self._timed, call, end)
            # A little more than the call itself gets, so that its own, clearer error comes first. Not wait_for, which
            # can lose a cancellation that comes with the result, and leaves its caller going on for ever.
            async with asyncio.timeout(allowed_s + 0.25):
                return await pending
        except TimeoutError as exc:
            raise DeadlineExceeded(f"{self._name} did not answer within {allowed_s:.1f} s") from exc
        finally:
            self._under_way -= 1

    def _timed(self, call: Callable[[float], _T], end: float) -> _T:
        left_s = end - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded(f"all {self._name} threads were busy until the time ran out")
        return call(left_s)

    def close(self) -> None:
        """Start no further call; those that run end in their own time."""
        self._executor.shutdown(wait=False, cancel_futures=True)
