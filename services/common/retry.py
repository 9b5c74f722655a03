"""Calls to a dependency that may be away: behind a breaker, and repeated where that is safe, within a budget."""

import math
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from prometheus_client import Counter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from services.common.breaker import Breaker, State
from services.common.deadline import time_left_s
from services.common.errors import DeadlineExceeded, Overloaded, SaccadeError, Unavailable

__all__ = ["ATTEMPTS", "FAIR_S", "Guard", "RetryBudget"]

ATTEMPTS: Final = 3
"""How often a call is made at most."""
FAIR_S: Final = 5.0
"""A dependency that has not answered for so long does not answer; sooner, the caller may just be in a hurry."""
RETRY_SHARE: Final = 0.1
"""Retries per call, in the long run."""
MOST_RETRIES: Final = 10.0
"""Retries that a quiet time saves up."""

# Full jitter: callers that failed together do not come back together.
_PAUSE: Final = wait_random_exponential(multiplier=0.2, max=2.0)

_RETRIES = Counter("saccade_dependency_retries_total", "Calls to a dependency that were repeated.", ["dependency"])

_T = TypeVar("_T")


class RetryBudget:
    """A token bucket: each call pays in a share of a retry, each retry takes a whole one. Never over MOST_RETRIES."""

    def __init__(self) -> None:
        """Make a full one."""
        self._tokens = MOST_RETRIES

    def earn(self) -> None:
        """A call is made."""
        self._tokens = min(MOST_RETRIES, self._tokens + RETRY_SHARE)

    def spend(self) -> bool:
        """Whether a call may be repeated."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Guard:
    """Makes the calls to one dependency. Used from one event loop.

    Only what the dependency is to blame for counts against it: Unavailable with its reason, and no answer for `fair_s`
    seconds. What it refuses a request with is an answer. A caller that leaves earlier, and an Overloaded, say nothing.
    """

    def __init__(self, dependency: str, *, where: str, reason: str) -> None:
        """Guard a dependency; see `Breaker`. `reason` is also that of the errors that count against it."""
        self._dependency = dependency
        self._reason = reason
        self._budget = RetryBudget()
        self.breaker = Breaker(dependency, where=where, reason=reason)

    async def call(self, attempt: Callable[[], Awaitable[_T]], *, again: bool = False, fair_s: float = FAIR_S) -> _T:
        """The result of `attempt`, or its last error.

        Args:
            attempt: Makes the call, in its own time limit.
            again: Whether it may be made again after Unavailable: it changes nothing, or the same twice over. That
                happens within the time of the call being served, while the budget and the breaker allow it.
            fair_s: No answer for so long counts against the dependency.

        Raises:
            Unavailable: the breaker is open.
        """
        self._budget.earn()
        if not again:
            return await self._once(attempt, fair_s)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Unavailable), wait=_PAUSE, stop=self._gives_up, reraise=True
        )
        return await retrying(self._once, attempt, fair_s)

    async def _once(self, attempt: Callable[[], Awaitable[_T]], fair_s: float) -> _T:
        probe = self.breaker.enter()
        began = time.monotonic()
        answered: bool | None = None
        try:
            result = await attempt()
            answered = True
        except BaseException as exc:
            answered = self._verdict(exc, in_time=time.monotonic() - began < fair_s)
            raise
        finally:
            self.breaker.leave(probe, answered)
        return result

    def _verdict(self, error: BaseException, *, in_time: bool) -> bool | None:
        """Whether a call that failed was answered; None: that can not be told."""
        if isinstance(error, Unavailable):
            return error.reason != self._reason
        if isinstance(error, SaccadeError) and not isinstance(error, Overloaded | DeadlineExceeded):
            return True
        return None if in_time or isinstance(error, Overloaded) else False

    def _gives_up(self, state: RetryCallState) -> bool:
        if state.attempt_number >= ATTEMPTS or self.breaker.state is not State.CLOSED:
            return True
        try:
            late = state.upcoming_sleep >= time_left_s(math.inf)
        except DeadlineExceeded:
            return True
        if late or not self._budget.spend():
            return True
        _RETRIES.labels(self._dependency).inc()
        return False
