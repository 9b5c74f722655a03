"""A circuit breaker: a dependency that is down costs its callers no time, and is asked again by one at a time."""

import time
from collections.abc import Callable
from enum import Enum
from typing import Final

import structlog
from prometheus_client import Counter, Gauge

from services.common.errors import Unavailable

__all__ = ["FAILURES", "REST_S", "Breaker", "State"]

FAILURES: Final = 5
"""So many failures in a row open a breaker."""
REST_S: Final = 1.0
"""How long an open one refuses before one caller may try, in seconds; and the pause between two that try."""
# Less is no advice that a client could follow.
_LEAST_ADVICE_S: Final = 0.1

_STATE = Gauge(
    "saccade_breaker_state", "Of calls to a dependency. 0: closed, all go; 1: one tries; 2: open.", ["dependency"]
)
_REFUSED = Counter("saccade_breaker_refused_total", "Calls that an open breaker refused.", ["dependency"])

_log = structlog.get_logger(__name__)


class State(Enum):
    """What a breaker does with calls."""

    CLOSED = 0
    PROBING = 1
    OPEN = 2


class Breaker:
    """Of the calls to one dependency. Used from one event loop.

    Closed, it lets all calls go. FAILURES of them in a row open it: calls are refused for REST_S. Then one may go, and
    one more in each further REST_S where it does not come back; one that succeeds closes it, one that fails opens it.
    """

    def __init__(self, dependency: str, *, where: str, reason: str, now: Callable[[], float] = time.monotonic) -> None:
        """Make a closed one.

        Args:
            dependency: Short name, for metrics.
            where: What refused callers are told does not answer, such as "Milvus at http://milvus:19530".
            reason: Of the refusals, for programs.
            now: A clock, in seconds.
        """
        self._dependency = dependency
        self._where = where
        self._reason = reason
        self._now = now
        self._failures = 0
        # While open or probing, the next probe may go at this time.
        self._until = 0.0
        self._probe = 0
        self._turn(State.CLOSED)

    @property
    def state(self) -> State:
        """Its state."""
        return self._state

    def enter(self) -> int:
        """Let a call go; what `leave` is to be told: the number of the probe that it is, 0 where it is none.

        Raises:
            Unavailable: it is open, or another caller is trying; `retry_after_s` says when the next one may.
        """
        if self._state is State.CLOSED:
            return 0
        now = self._now()
        if now < self._until:
            _REFUSED.labels(self._dependency).inc()
            wait_s = max(self._until - now, _LEAST_ADVICE_S)
            raise Unavailable(
                f"{self._where} does not answer; it is asked again in {wait_s:.1f} s",
                reason=self._reason,
                retry_after_s=wait_s,
            )
        self._probe += 1
        self._until = now + REST_S
        self._turn(State.PROBING)
        return self._probe

    def leave(self, probe: int, succeeded: bool | None) -> None:
        """Say how a call ended.

        Args:
            probe: What `enter` returned.
            succeeded: Whether the dependency answered; None: that can not be told.
        """
        if self._state is State.CLOSED:
            if succeeded is not None:
                self._failures = 0 if succeeded else self._failures + 1
            if self._failures >= FAILURES:
                self._open(REST_S)
        elif probe and succeeded:
            _log.info("dependency answers again", dependency=self._dependency)
            self._failures = 0
            self._turn(State.CLOSED)
        elif probe == self._probe and self._state is State.PROBING:
            # Who could not tell leaves the trial to the next caller.
            self._open(0.0 if succeeded is None else REST_S)

    def _open(self, rest_s: float) -> None:
        if self._state is State.CLOSED:
            _log.warning("dependency does not answer", dependency=self._dependency)
        self._until = self._now() + rest_s
        self._turn(State.OPEN)

    def _turn(self, state: State) -> None:
        self._state = state
        _STATE.labels(self._dependency).set(state.value)
