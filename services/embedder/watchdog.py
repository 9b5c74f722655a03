"""Readiness after the start: whether each model has given an answer lately."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from services.embedder import metrics
from services.embedder.batcher import Batcher

__all__ = ["Watchdog", "Watched"]

_log = structlog.get_logger(__name__)
_MAX_TICK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Watched:
    """A model to watch.

    Attributes:
        name: For metrics and logs.
        batcher: What feeds it.
        check: A real inference through the batcher; raises if it fails.
        every_s: A model that gave no result for so long is checked.
        limit_s: A computation or check that takes longer means that the model is not ready.
    """

    name: str
    batcher: Batcher
    check: Callable[[], Awaitable[None]]
    every_s: float
    limit_s: float


class Watchdog:
    """Calls `set_ready` with False as soon as one model fails, and with True when all answer again."""

    def __init__(self, watched: Sequence[Watched], set_ready: Callable[[bool], Awaitable[None]]) -> None:
        self._watched = watched
        self._set_ready = set_ready
        self._healthy = {model.name: True for model in watched}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Watch, from a state in which every model has just answered."""
        self._tasks = [asyncio.create_task(self._watch(model), name=f"watch-{model.name}") for model in self._watched]

    async def close(self) -> None:
        """Watch no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, model: Watched) -> None:
        while True:
            healthy = await self._answers(model)
            metrics.MODEL_READY.labels(model.name).set(healthy)
            if healthy is not self._healthy[model.name]:
                self._healthy[model.name] = healthy
                _log.log(20 if healthy else 40, "model answers again" if healthy else "model fails", model=model.name)
                await self._set_ready(all(self._healthy.values()))
            await asyncio.sleep(min(model.every_s / 4, model.limit_s / 4, _MAX_TICK_S))

    async def _answers(self, model: Watched) -> bool:
        # Under constant load there is no time for a check: what callers get tells as much.
        if model.batcher.busy_s > model.limit_s or model.batcher.failing_s > model.limit_s:
            return False
        if model.batcher.busy_s or model.batcher.since_success_s < model.every_s:
            # It computes for somebody, or has just done so. What it showed last still holds.
            return self._healthy[model.name] or model.batcher.since_success_s < model.every_s
        try:
            async with asyncio.timeout(model.limit_s):
                await model.check()
        except Exception as exc:
            _log.warning("model check failed", model=model.name, error=repr(exc))
            return False
        return True
