"""Bounded work: calls made together, and a gate in front of them."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from services.common.errors import Overloaded

__all__ = ["Gate", "both", "together"]

_T = TypeVar("_T")
_S = TypeVar("_S")


async def together(calls: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Results in order; when one fails the others are cancelled and its error is raised, as it is."""
    tasks: list[asyncio.Task[_T]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks.extend(group.create_task(call) for call in calls)
    except* Exception as failed:
        first = _first(failed)
    else:
        return [task.result() for task in tasks]
    raise first


async def both(first: Coroutine[Any, Any, _T], second: Coroutine[Any, Any, _S]) -> tuple[_T, _S]:
    """`together` for two calls of unlike results."""
    made: list[_T | _S] = await together([first, second])
    return made[0], made[1]  # type: ignore[return-value]  # each has its place


def _first(group: BaseExceptionGroup[Any]) -> Exception:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


class Gate:
    """Lets a number of calls in, lets some wait, and refuses the rest."""

    def __init__(self, inside: int, waiting: int) -> None:
        """At most `inside` calls at a time, and `waiting` in front."""
        self._free = asyncio.Semaphore(inside)
        self._most = inside + waiting
        self._here = 0

    @asynccontextmanager
    async def entered(self) -> AsyncIterator[None]:
        """Hold a place.

        Raises:
            Overloaded: too many wait already.
        """
        if self._here >= self._most:
            raise Overloaded("too many searches wait already; try again in a moment", retry_after_s=1.0)
        self._here += 1
        try:
            async with self._free:
                yield
        finally:
            self._here -= 1
