"""Calls made together."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

__all__ = ["both", "together"]

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
