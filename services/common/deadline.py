"""The time that the call being served has left, known to everything that it waits for."""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from services.common.errors import DeadlineExceeded

__all__ = ["call_deadline", "time_left_s"]

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


@contextmanager
def call_deadline(seconds: float) -> Iterator[None]:
    """Everything inside has at most `seconds`; an outer, earlier deadline stays in force."""
    token = _deadline.set(min(_deadline.get(), asyncio.get_running_loop().time() + seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


def time_left_s(limit_s: float) -> float:
    """Seconds that a wait may take: what the call has left, at most `limit_s`.

    Raises:
        DeadlineExceeded: nothing is left.
    """
    left = _deadline.get() - asyncio.get_running_loop().time()
    if left <= 0:
        raise DeadlineExceeded("the call's time ran out")
    return min(left, limit_s)
