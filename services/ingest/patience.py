"""Waiting for a dependency that is overloaded or away for a moment."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from services.common.errors import Overloaded, SaccadeError, Unavailable

__all__ = ["Patience"]

_T = TypeVar("_T")
_MAX_PAUSE_S: Final = 5.0
# Full jitter: callers that were refused together do not come back together.
_pause = wait_random_exponential(multiplier=0.2, max=_MAX_PAUSE_S)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to go on asking, in seconds: one that is overloaded, and one that does not answer."""

    overload_s: float
    outage_s: float

    async def ask(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """The call's result; its last error once patience is over, any other error at once."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((Overloaded, Unavailable)), wait=_wait, stop=self._stop, reraise=True
        )

        # Tenacity awaits what it is given only where that is an `async def`.
        async def attempt() -> _T:
            return await call()

        return await retrying(attempt)

    def _stop(self, state: RetryCallState) -> bool:
        limit = self.overload_s if isinstance(_error(state), Overloaded) else self.outage_s
        return (state.seconds_since_start or 0.0) + state.upcoming_sleep >= limit


def _wait(state: RetryCallState) -> float:
    error = _error(state)
    advised = min(error.retry_after_s, _MAX_PAUSE_S) if isinstance(error, SaccadeError) else 0.0
    return advised + _pause(state)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None
